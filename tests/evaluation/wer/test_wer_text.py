from speechssl.evaluation.wer.summary import summarise
from speechssl.evaluation.wer.wer_text import wer_text


def test_wer_text_says_everything():
    rows = [
        {"id": f"u{i}", "ref": "the cat sat", "hyp": ("the bat", "the cat sat on", "")[i % 3], "speaker": f"s{i}",
         "duration": 2.5} for i in range(45)
    ]  # fmt: skip
    text = wer_text(summarise([*rows, {"id": "e", "ref": "", "hyp": "x"}], n=50), {"decoder": "greedy\nx"})
    assert "decoder  greedy?x" in text
    assert "45 known speakers" in text and "and 6 more (see wer.json)" in text  # 45 and the unknown one
    assert "insertions): 1" in text and "nothing was recognised: 15" in text
    assert "cat → bat" in text and "␣" in text and "1.9 min" in text
    assert max(map(len, text.splitlines())) <= 100


def test_wer_text_of_a_perfect_system_has_no_confusions():
    assert "substituted" not in wer_text(summarise([{"id": "a", "ref": "b", "hyp": "b"}], n=10), {})
