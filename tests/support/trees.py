"""Small trees of public corpora: real audio files, each with bytes of its own, and the texts beside them."""

import json
from pathlib import Path

import numpy as np
import soundfile

from speechssl.config import CorpusConfig, ManifestConfig
from speechssl.core.ledger import read_ledger
from speechssl.data.ingest.manifest import read_manifest
from speechssl.data.ingest.public.build import make_corpus

__all__ = ["audio", "ledger", "made", "plant"]


def audio(path: Path, seconds: float = 0.5, rate: int = 16_000) -> None:
    """Write noise that is a function of the path's name; the format is that of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(str(path).encode()))
    wave = (0.1 * rng.standard_normal(int(seconds * rate))).astype(np.float32)
    if path.suffix == ".sph":
        soundfile.write(path, wave, rate, format="NIST", subtype="PCM_16")
    else:
        soundfile.write(path, wave, rate)


def plant(root: Path, files: dict[str, str | float]) -> Path:
    """Write texts (strings) and recordings (seconds) below ``root``; return it."""
    for name, content in files.items():
        if isinstance(content, str):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content, encoding="utf-8")
        else:
            audio(root / name, content)
    return root


def made(name: str, root: Path, *subset: str, **changes):
    """Return {id: utterance} of the manifest that ``speechssl corpus`` makes, and its summary."""
    cfg = CorpusConfig(subset=subset, manifest=ManifestConfig(max_seconds=60.0, workers=1), **changes)
    summary = make_corpus(name, root, cfg)
    output = Path(cfg.output) if cfg.output else root / "manifest"
    utterances = {u.id: u for u in read_manifest(output / "manifest.jsonl")}
    assert json.loads((output / "summary.json").read_text())["utterances"] == len(utterances) == summary.utterances
    return utterances, summary


def ledger(root: Path, output: str = "manifest") -> list[tuple[str, str]]:
    """Return (item, reason) of the ledger, in order."""
    return [(entry.item, entry.reason) for entry in read_ledger(root / output / "ledger.jsonl")]
