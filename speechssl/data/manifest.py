"""The manifest: ``manifest.jsonl``, a line for each utterance (manifests/README.md explains the fields).

In: any folder of audio, through ``build_manifest``; or a manifest file. Out: manifest, ledger, summary; utterances.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from speechssl.data.utterance import Utterance, from_row, safe_id, to_row
from speechssl.errors import DataError

__all__ = ["Utterance", "read_manifest", "safe_id", "write_manifest"]


def read_manifest(path: Path) -> list[Utterance]:
    """Return the utterances of a manifest, in its order.

    Raises
    ------
    DataError
        The file cannot be read, a line is not an utterance, or an id comes twice; the message has the line number.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"manifest {path}: {error}; make it with `speechssl manifest FOLDER`") from error
    utterances: list[Utterance] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            utterance = from_row(json.loads(line))
        except ValueError as error:
            raise DataError(f"manifest {path}, line {number}: {error}") from error
        if utterance.id in seen:
            raise DataError(f"manifest {path}, line {number}: id {utterance.id!r} is also in line {seen[utterance.id]}")
        seen[utterance.id] = number
        utterances.append(utterance)
    return utterances


def write_manifest(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest so that it is either whole or not there; equal utterances give equal bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(to_row(utterance), ensure_ascii=False) + "\n" for utterance in utterances)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
