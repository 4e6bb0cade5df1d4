"""The audit finds every planted fault, and nothing in clean speech; its verb, files and exit codes."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from speechssl.config import AuditConfig
from speechssl.data.audit import audit
from speechssl.data.checks import CHECKS
from tests.planted import plant


def synthetic(count):
    """Distinct sentences by synthetic voices, at about 18 to 20 characters a second or fewer, with a room's noise."""
    from speechssl.data.espeak import Espeak
    from speechssl.data.synth_text import sentences

    espeak, stream = Espeak(), sentences(11)
    made = []
    variants = ("f1", "m1", "f2", "m2", "f3", "m4", "Annie", "steph")
    for number in range(count):
        who = number % len(variants)
        if number % 5 == 0:
            espeak.set_voice(
                f"en-us+{variants[number // 5 % len(variants)]}", rate=130 + number % 17, pitch=40 + number % 20
            )
        text = next(stream)
        wave = espeak.say(text).astype(np.float32) / 32_768
        noise = np.random.default_rng(number).standard_normal(len(wave) + 4_000).astype(np.float32)
        wave = np.concatenate([np.zeros(2_000, np.float32), wave, np.zeros(2_000, np.float32)])
        made.append((0.5 * wave + 1e-4 * noise, text, f"s{who}"))
    return made


def judge(planted, found):
    """Return {check: (planted, found of them, false)} and the false findings."""
    got = defaultdict(set)
    for finding in found.findings:
        got[finding.check].add(finding.item)
    rows, false = {}, []
    for check in CHECKS:
        wanted = planted.faults.get(check, set())
        extra = {item for item in got[check] - wanted if (check, item) not in planted.allowed}
        rows[check] = (len(wanted), len(wanted & got[check]), len(extra))
        if check == "rare_character":  # true of other characters too: counted here again
            letters = Counter("".join(u.text or "" for u, _ in found.pairs))
            extra = {f.item for f in found.findings if f.check == check and letters[f.value] > 2}
            rows[check] = (*rows[check][:2], len(extra))
        false += [(check, item) for item in sorted(extra)]
    return rows, false


def show(rows):
    print(f"\n{'check':26}{'planted':>8}{'found':>8}{'false':>8}")
    for check, (wanted, hit, extra) in rows.items():
        if wanted or extra:
            print(f"{check:26}{wanted:8}{hit:8}{extra:8}")
    wanted, hit, extra = (sum(row[i] for row in rows.values()) for i in range(3))
    print(f"{'all':26}{wanted:8}{hit:8}{extra:8}   recall {hit / wanted:.3f} precision {hit / (hit + extra):.3f}")
    return hit / wanted, hit / (hit + extra)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return plant(tmp_path_factory.mktemp("planted"), synthetic(210))


@pytest.fixture(scope="module")
def found(planted):
    return audit(planted.manifest, AuditConfig(workers=1))


def test_every_planted_fault_is_found(planted, found):
    rows, false = judge(planted, found)
    recall, precision = show(rows)
    for check, item in false:
        print([f"{f.check} {f.item} {f.detail}" for f in found.findings if (f.check, f.item) == (check, item)][:1])
    missed = {check: row for check, row in rows.items() if row[1] < row[0]}
    assert len(planted.faults) >= 20
    assert not missed, missed
    assert recall == 1.0
    assert precision >= 0.95, false
    assert not [item for item in false if CHECKS[item[0]].severity == "error"], false
