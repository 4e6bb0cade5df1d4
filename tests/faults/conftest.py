"""What uninterrupted runs end with: the yardstick of the fault tests."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ToneCorpus
from tests.faults.runs import config, digest, start


@pytest.fixture(scope="session")
def uninterrupted(tone_corpus: ToneCorpus, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a run of this kind that nobody disturbed (one rank, no loader processes)."""
    folder = tmp_path_factory.mktemp("uninterrupted")

    @cache
    def make(kind: str) -> Path:
        run = start(config(kind, tone_corpus.shards, folder / kind))
        assert run.end() == 0, run.text()
        assert digest(run.output)
        return run.output

    return make
