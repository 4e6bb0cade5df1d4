"""Scripts that write no spaces between words: the rate is that of characters, and spaces are no errors there."""

import json
from dataclasses import replace

import pytest

from speechssl.asr.finetune import finetune
from speechssl.cli.main import main
from speechssl.evaluation.wer.edit_distance import align_characters
from speechssl.evaluation.wer.summary import summarise
from speechssl.evaluation.wer.unspaced import is_unspaced, without_spaces
from speechssl.evaluation.wer.wer import write_wer
from tests.asr.test_finetune import said
from tests.support.tones import recipe, write_shards

CHINESE = [{"id": "a", "ref": "今天天气很好", "hyp": "今天天汽很好"}, {"id": "b", "ref": "我爱你", "hyp": "我 爱 你"}]


@pytest.mark.parametrize(
    ("texts", "unspaced"),
    [
        (["今天天气很好", "ok"], True),
        (["これはペンです"], True),
        (["วันนี้อากาศดี"], True),
        (["ថ្ងៃនេះ", "မင်္ဂလာပါ"], True),
        (["오늘 날씨가 좋다"], False),
        (["the 天 cat sat"], False),
        (["привет", "हिन्दी", ""], False),
        ([], False),
    ],
)
def test_the_script_of_most_letters_decides(texts, unspaced):
    assert is_unspaced(texts) is unspaced


def test_spaces_beside_such_letters_are_no_characters():
    assert without_spaces("我 爱 you too 你") == "我爱you too你"
    assert [op for op, _, _ in align_characters("我 爱 你", "我爱你")] == ["C", "C", "C"]
    assert "D" in [op for op, _, _ in align_characters("a b", "ab")]


def test_chinese_is_headlined_by_its_characters(tmp_path):
    report = write_wer(tmp_path, CHINESE, n=50)
    assert report.unspaced and report.cer == pytest.approx(1 / 9)
    assert str(report).startswith("CER 11.11 %") and "WER 200.00 % counts phrases" in str(report)
    assert (tmp_path / "wer.txt").read_text(encoding="utf-8").startswith("CER 11.11 %")
    assert json.loads((tmp_path / "wer.json").read_text(encoding="utf-8"))["unspaced"] is True
    english = summarise([{"id": "a", "ref": "a cat", "hyp": "a hat"}], n=50)
    assert not english.unspaced and str(english).startswith("WER 50.00 %")


def test_score_shows_characters_first(tmp_path, capsys):
    for side in ("ref", "hyp"):
        (tmp_path / f"{side}.trn").write_text(
            "".join(f"{row[side]} ({row['id']})\n" for row in CHINESE), encoding="utf-8"
        )
    main(["score", str(tmp_path / "ref.trn"), str(tmp_path / "hyp.trn")])
    out = capsys.readouterr().out
    assert out.index("without spaces between words") < out.index("CER %") < out.index("by speaker")


def test_weights_are_chosen_by_the_characters_of_dev(tmp_path):
    extra = [said(f"u{k}", "天气好", split) for k, split in enumerate(("train", "train", "dev"))]
    cfg = recipe(write_shards(tmp_path, {}, extra), tmp_path / "run", steps=2)
    model = finetune(replace(cfg, training=replace(cfg.training, validate_every=1)))
    info = json.loads((model / "config.json").read_text(encoding="utf-8"))["info"]
    assert info["selected"] == "lowest dev CER" and info["dev_cer"] >= 0 and info["dev_wer"] is None
