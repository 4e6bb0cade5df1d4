"""Case by language: the dotless i, the sharp s, final sigma, what capitals cannot say."""

import pytest

from speechssl.asr.normalisers import normaliser
from speechssl.asr.tokens import Tokens, normalise_text
from speechssl.config import ScoreConfig, TokensConfig
from speechssl.data.ingest.text.casing import language_code, lower_case
from speechssl.evaluation.nist.score import score_files


@pytest.mark.parametrize(
    ("name", "code"),
    [("tr", "tr"), ("tr-TR", "tr"), ("tr_TR.UTF-8", "tr"), ("Turkish", "tr"), ("aze", "az"), (None, ""), ("", ""),
     ("en-GB", "en"), ("zh-Hans-CN", "zh")],
)  # fmt: skip
def test_a_language_has_one_code_however_it_is_named(name, code):
    assert language_code(name) == code


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("tr", "İSTANBUL ILIK IŞIK", "istanbul ılık ışık"),
        ("az", "İLK QIZ", "ilk qız"),
        ("tr", "I\u0307STANBUL", "istanbul"),
        ("", "İstanbul", "istanbul"),
        ("en", "I THINK", "i think"),
        ("lt", "J\u0307\u0301 i\u0307\u0301", "j\u0301 í"),
        ("de", "GROẞ", "groß"),
        ("el", "ΟΔΟΣ ΣΑΣ", "οδος σας"),
        ("nl", "IJSLAND Ĳsland", "ijsland ijsland"),
        ("hr", "ǅep ǆep DŽEP", "džep džep džep"),
    ],
)
def test_labels_follow_the_rules_of_the_language(language, text, expected):
    assert normalise_text(text, "basic", language) == expected
    assert normalise_text(expected, "basic", language) == expected


def test_a_sigma_that_another_system_writes_without_its_final_form_is_the_same():
    assert normalise_text("οδοσ", "basic") == normalise_text("ΟΔΟΣ.", "basic") == "οδος"
    assert lower_case("ΣΑΣ") == "σας"


def test_the_model_keeps_the_language_of_its_labels():
    tokens, _ = Tokens.build(["IŞIK"], TokensConfig(language="tr-TR"))
    assert tokens.symbols[2:] == ("k", "ı", "ş")
    again = Tokens.from_dict(tokens.to_dict())
    assert again == tokens and again.spell("IŞIK") == "ışık"
    assert "language" not in Tokens.build(["a"], TokensConfig())[0].to_dict()


def errors(tmp_path, ref, hyp, language="", normalise="own", name="text"):
    for file, text in (("ref", ref), ("hyp", hyp)):
        (tmp_path / f"{file}.{name}").write_text(text, encoding="utf-8")
    paths = [str(tmp_path / f"{file}.{name}") for file in ("ref", "hyp")]
    cfg = ScoreConfig(ref=paths[0], hyp=(paths[1],), language=language)
    change, rule = normaliser(normalise, language)
    scoring = score_files(cfg, change, rule, for_language=lambda code: normaliser(normalise, code)[0])
    return sum(row["S"] + row["D"] + row["I"] for row in scoring.systems[0].rows)


@pytest.mark.parametrize("normalise", ["own", "lower"])
@pytest.mark.parametrize(
    ("language", "upper", "lower"),
    [
        ("tr", "İSTANBUL ILIK IŞIK", "istanbul ılık ışık"),
        ("de", "DIE STRASSE IST GROSS", "die straße ist groß"),
        ("el", "Η ΑΘΗΝΑ ΤΗΣ ΕΛΛΑΔΑΣ", "η αθήνα της ελλάδας"),
        ("el", "ΡΟΛΟΙ", "ρολόι"),
    ],
)
def test_capitals_are_the_same_words_in_their_language(language, upper, lower, normalise, tmp_path):
    assert errors(tmp_path, f"u1 {upper}\n", f"u1 {lower}\n", language, normalise) == 0
    assert errors(tmp_path, f"u1 {lower}\n", f"u1 {upper}\n", language, normalise) == 0


def test_two_texts_in_lower_case_keep_what_tells_words_apart(tmp_path):
    assert errors(tmp_path, "u1 in maßen\n", "u1 in massen\n", "de") == 1
    assert errors(tmp_path, "u1 νόμος\n", "u1 νομός\n", "el") == 1
    assert errors(tmp_path, "u1 ışık\n", "u1 işik\n", "tr") == 1


def test_the_language_of_a_manifest_decides_utterance_by_utterance(tmp_path):
    ref = '{"id": "a", "text": "IŞIK", "language": "tr"}\n{"id": "b", "text": "THIS I", "language": "en"}\n'
    hyp = '{"id": "a", "text": "ışık"}\n{"id": "b", "text": "this i"}\n'
    assert errors(tmp_path, ref, hyp, name="jsonl") == 0
