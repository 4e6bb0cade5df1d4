"""Every export format: what it holds, how far its numbers are from ours, and whether its texts are the same.

usage: python -m benchmarks.exports SHARDS NAME=MODEL... [--splits SPLIT...] [--utterances N] [--to FORMAT...]

Each MODEL is a model folder. It is written in every format, and the program that the format is for is run on N
recordings of SHARDS, some of them with digital silence in them (``speechssl export`` does the same). A format that
cannot hold a model is listed with the reason. ``in`` is the largest difference after the export was read back here.
Prints a table in Markdown; results: benchmarks/results/exports.json. Rows of models that are not named stay.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, get_args

from benchmarks.machine import RESULTS, write
from speechssl.asr.ctc import recogniser_of
from speechssl.asr.export import READERS, WRITERS, Recording, compare, ours, recordings
from speechssl.config import DataConfig
from speechssl.config.verbs import Format
from speechssl.core.errors import ConfigError
from speechssl.interop.any_model import encoder_of, load_any

BACK: dict[str, str] = {"hf": "", "torchaudio": "model.pt"}
"""Formats that ``--init`` reads, and the file in the folder."""


def row(path: Path, form: Format, items: list[Recording]) -> dict[str, Any]:
    """Write one model in one format, and compare."""
    model = load_any(path)
    module, tokens = recogniser_of(model, path) if model.tokens else (encoder_of(model, path), None)
    encoder = getattr(module, "encoder", module)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            written = WRITERS[form](folder, model, encoder)
        except ConfigError as error:
            return {"out": f"no: {error}"}
        found = compare(ours(module, tokens), READERS[form](folder), items)
        result = {"out": written, "largest difference": found.largest, "frames": found.frames}
        result["same text"] = f"{found.texts} of {found.recordings}" if tokens else "-"
        if form in BACK:
            try:
                again = encoder_of(load_any(folder / BACK[form]), folder)
                result["in"] = compare(ours(encoder, None), ours(again, None), items).largest
            except ConfigError as error:
                result["in"] = f"no: {error}"
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--splits", nargs="+", default=["test"])
    parser.add_argument("--utterances", type=int, default=40)
    parser.add_argument("--to", nargs="+", default=list(get_args(Format)))
    given = parser.parse_args()
    data = DataConfig(shards=given.shards, splits=tuple(given.splits), min_seconds=0.5, max_seconds=8.0)
    items = recordings(data, given.utterances)
    columns = ("model", "format", "out", "in", "largest difference", "same text")
    print("|", " | ".join(columns), "|\n|" + "---|" * len(columns), flush=True)
    rows = []
    for text in given.models:
        name, _, path = text.partition("=")
        for form in given.to:
            rows.append({"model": name, "format": form, "recordings": len(items), **row(Path(path), form, items)})
            cells = [rows[-1].get(column, "-") for column in columns]
            shown = [f"{cell:.1e}" if isinstance(cell, float) else str(cell) for cell in cells]
            print("|", " | ".join(shown), "|", flush=True)
    named = {item["model"] for item in rows}
    stored = json.loads((RESULTS / "exports.json").read_text(encoding="utf-8"))["rows"]
    kept = [item for item in stored if item["model"] not in named]
    write("exports.json", {"what": "export formats", "rows": rows + kept},
          "transformers", "onnxruntime", "onnxscript", "sherpa-onnx")  # fmt: skip


if __name__ == "__main__":
    main()
