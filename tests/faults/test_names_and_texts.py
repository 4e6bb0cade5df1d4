"""Names and transcripts as people's computers make them, the whole way to shards: faults 33 and 35."""

import json
import unicodedata

import pytest
import webdataset

from speechssl.asr.tokens import Tokens
from speechssl.cli.main import main
from speechssl.config import TokensConfig
from speechssl.core.ledger import read_ledger
from speechssl.data.ingest.manifest import read_manifest
from speechssl.data.ingest.utterance import ID_PATTERN
from tests.support.voices import voice, write

NAMES = [
    unicodedata.normalize("NFC", "café.wav"), unicodedata.normalize("NFD", "café.wav"), "cafe.wav", "café.flac.wav",
    "spk.1_utt.wav", "spk_1_utt.wav", "spk.1/utt.wav", "日本.wav", "語.wav", "a b.wav", "a  b.wav", "wav..wav.wav",
    "/".join(["x" * 100] * 4) + ".wav", "/".join(["x" * 100] * 3 + ["x" * 99 + "y"]) + ".wav",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_names_that_look_alike_or_are_too_long_stay_apart(tmp_path):
    """Fault 33: webdataset ends a key at its first dot, and a file system may not tell é from é."""
    folder = tmp_path / "corpus"
    for number, name in enumerate(NAMES):
        write(folder / name, voice(0.4 + 0.01 * number, seed=number))
    rows = [{"audio": name, "text": f"text {number}"} for number, name in enumerate(NAMES)]
    (folder / "meta.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main(["manifest", str(folder), str(tmp_path / "manifest"), "--workers", "1"]) == 0
    utterances = read_manifest(tmp_path / "manifest" / "manifest.jsonl")
    assert len({u.id for u in utterances}) == len(NAMES)
    assert all(ID_PATTERN.fullmatch(u.id) for u in utterances)
    said = {u.id: u.text for u in utterances}
    lengths = {u.id: u.duration for u in utterances}
    for number, name in enumerate(NAMES):
        (mine,) = [u for u in utterances if u.path == str(folder / name)]
        assert mine.duration == pytest.approx(0.4 + 0.01 * number, abs=1e-3)
        assert mine.text == f"text {number}"
    assert main(["shard", str(tmp_path / "manifest"), str(tmp_path / "shards"), "--workers", "1"]) == 0
    tars = sorted(str(path) for path in (tmp_path / "shards").glob("*.tar"))
    found = {}
    for sample in webdataset.WebDataset(tars, shardshuffle=False):
        found[sample["__key__"]] = (sample.get("txt", b"").decode(), json.loads(sample["json"])["duration"])
    assert found == {name: (said[name] or "", pytest.approx(lengths[name])) for name in said}


def test_transcripts_as_people_save_them(tmp_path):
    """Fault 35: marks, line ends, tabs, case and characters outside the vocabulary; nothing of it in silence."""
    folder = tmp_path / "corpus"
    for split, count in (("train", 4), ("dev", 3)):
        for number in range(count):
            write(folder / split / f"{split}{number}.wav", voice(0.5 + 0.01 * number, seed=10 * count + number))
    lines = [
        {"audio": "train0.wav", "text": "Cafe\u0301 \tNOIR\u00a0"}, {"audio": "train1.wav", "text": ""},
        {"audio": "train2.wav", "text": None}, {"audio": "train3.wav", "text": "one\r\ntwo"},
        {"audio": "gone.wav", "text": "x"},
    ]  # fmt: skip
    text = "\r\n".join(json.dumps(line) for line in lines)
    (folder / "train" / "meta.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n{broken\r\n")
    table = "path\ttext\r\ndev0.wav\tnoir 7\r\ndev1.wav\t\r\ndev2.wav\tONE\r\n"
    (folder / "dev" / "meta.tsv").write_bytes(table.encode("utf-16"))
    args = ["--workers", "1", "--test-fraction", "0", "--dev-fraction", "0"]
    assert main(["manifest", str(folder), str(tmp_path / "out"), *args]) == 0
    found = {u.path.rsplit("/", 1)[1]: u for u in read_manifest(tmp_path / "out" / "manifest.jsonl")}
    assert {name: u.text for name, u in found.items()} == {
        "train0.wav": "Café NOIR", "train1.wav": "", "train2.wav": None, "train3.wav": "one two",
        "dev0.wav": "noir 7", "dev1.wav": None, "dev2.wav": "ONE",
    }  # fmt: skip
    listed = {(entry.item, entry.reason) for entry in read_ledger(tmp_path / "out" / "ledger.jsonl")}
    assert listed == {("train/meta.jsonl:5", "missing_audio"), ("train/meta.jsonl:6", "bad_row")}
    train = [u.text for u in found.values() if u.split == "train" and u.text is not None]
    tokens, _ = Tokens.build(train, TokensConfig())
    assert set(tokens.symbols) == {"<blank>", "|", *"acefénoirtw"}
    dev = {name: u.text for name, u in found.items() if u.split == "dev" and u.text is not None}
    assert [(entry.item, entry.reason) for entry in tokens.unseen(dev, split="dev")] == [("7", "unseen_character")]
