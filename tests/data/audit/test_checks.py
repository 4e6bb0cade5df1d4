"""The list of checks: codes that scripts rely on, each produced somewhere, each with something to do about it."""

import re
from pathlib import Path

from speechssl.data.audit import checks
from speechssl.data.audit.checks import CHECKS, UNUSABLE, Finding


def test_each_check_can_be_acted_on():
    assert len({check.title for check in CHECKS.values()}) == len(CHECKS)
    for code, check in CHECKS.items():
        assert re.fullmatch("[a-z_]+", code)
        assert check.severity in ("error", "warning", "note")
        assert len(check.advice.split()) >= 3, code


def test_each_check_is_made_somewhere():
    folder = Path(checks.__file__).parents[1]  # audio/ has reasons, too
    made = "".join(p.read_text(encoding="utf-8") for p in folder.rglob("*.py") if p.name != "checks.py")
    assert [code for code in CHECKS if f'"{code}"' not in made] == []


def test_audio_that_cannot_be_decoded_is_an_error():
    assert {CHECKS[reason].severity for reason in (*UNUSABLE, "unusable")} == {"error"}


def test_a_finding_is_as_grave_as_its_check():
    assert Finding("silent", "u").severity == "error"
    assert Finding("hum", "u").severity == "note"
