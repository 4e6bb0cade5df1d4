"""Copies of held-out recordings: the same samples, or changed ones, are found in any part; other speech is not."""

import numpy as np

from speechssl.data.audit import copies as module
from speechssl.data.audit.copies import copies
from tests.data.audit.test_duplicates import babble
from tests.support.planted import lossy


def test_copies_are_found_in_every_part_and_nothing_else_is(monkeypatch):
    monkeypatch.setattr(module, "TOGETHER", 3)
    held = [("dev-a", babble(3, 1)), ("dev-b", babble(3, 2)), ("dev-c", babble(0.15, 3))]
    others = [
        ("new-1", babble(3, 4)),
        ("louder", 3 * babble(3, 1)),
        ("again", babble(3, 5)),
        ("again-2", babble(3, 5)),  # a copy of another one that is not held out
        ("coded", lossy(babble(3, 2), "opus")),
        ("short", babble(0.15, 3)),  # too short for a fingerprint: only the same samples are found
        ("late", np.concatenate([np.zeros(3_000, np.float32), babble(3, 1)])),
    ]
    found = list(copies(held, others))
    assert [(name, of) for name, of, _ in found] == [
        ("louder", "dev-a"),
        ("coded", "dev-b"),
        ("short", "dev-c"),
        ("late", "dev-a"),
    ]
    assert found[2][2] == "the same samples"
    assert "of the bits" in found[0][2]


def test_silence_is_no_copy():
    silence = np.zeros(32_000, np.float32)
    assert list(copies([("dev", silence)], [("train", silence)])) == []
    assert list(copies([], [("train", babble(1, 1))])) == []
