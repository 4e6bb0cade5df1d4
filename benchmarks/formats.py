"""Models of public formats: are they read with the numbers, and the text, of the library that wrote them?

usage: python -m benchmarks.formats [AUDIO ...] [--tiny] [--only NAME] [--steps 10 --shards SHARDS [--to FORMAT ...]]

For each layout a model of BASE size with random weights is written by the public library (fairseq and fairseq2: in
their names), read by ``speechssl import``, and compared on AUDIO with silence after it. Prints the rows of the table in
docs/interop.md. With ``--shards`` each is also fine-tuned for some steps, exported to each FORMAT, and compared on
``--utterances`` recordings of the test split, on some of them with silence, and on silence. ``--tiny``: toy sizes.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, get_args

import torch

from benchmarks.exports import row as exported
from speechssl.asr.ctc import load_recogniser
from speechssl.asr.decoding.decoders import build_decoder
from speechssl.asr.export import recordings
from speechssl.asr.finetune import finetune
from speechssl.asr.recognise import frame_log_probs
from speechssl.config import CtcConfig, DataConfig, DecoderConfig, FinetuneConfig, ImportConfig, TrainingConfig
from speechssl.config.verbs import Format
from speechssl.data.audio.decode import decode
from speechssl.interop.importing import import_model
from speechssl.training.monitoring.log import read_metrics
from tests.interop.test_formats import as_fairseq2
from tests.support.public_models import LETTERS, fairseq_checkpoint, of_fairseq, of_transformers, save_with_vocabulary

LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


class Layout(NamedTuple):
    """A format and a model in it."""

    name: str
    write: Callable[[Path, bool], Any]
    """Writes a model into a folder, of BASE size or tiny; returns a processor of transformers, or nothing."""
    file: str = ""


def _folder(task: str, **changes: Any) -> Callable[[Path, bool], Any]:
    def write(folder: Path, base: bool) -> Any:
        model = of_transformers(task, base=base, **changes)
        if task.endswith("ForCTC"):
            return save_with_vocabulary(model, folder, normalize=True)
        model.save_pretrained(folder)
        return None

    return write


def _pickled(folder: Path, base: bool) -> None:
    model = of_transformers("Wav2Vec2Model", base=base)
    model.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _sharded(folder: Path, base: bool) -> None:
    of_transformers("HubertModel", base=base).save_pretrained(folder, max_shard_size="100MB" if base else "40KB")


def _fairseq(*, hubert: bool, tuned: int = 0, library: str = "fairseq") -> Callable[[Path, bool], Any]:
    def write(folder: Path, base: bool) -> None:
        sizes = (
            {"dim": 768, "inner": 3072, "heads": 12, "layers": 12, "channels": 512, "pos": (128, 16)} if base else {}
        )
        model = of_fairseq(hubert=hubert, tuned=tuned, **sizes)
        folder.mkdir()
        (folder / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in LETTERS), encoding="utf-8")
        content = fairseq_checkpoint(model, hubert=hubert)
        if library == "torchaudio":
            from torchaudio.models.wav2vec2.utils import import_fairseq_model

            content = import_fairseq_model(model).state_dict()
        torch.save(content, folder / "model.pt")

    return write


def _fairseq2(folder: Path, base: bool) -> None:
    folder.mkdir()
    model = of_transformers("Wav2Vec2ForPreTraining", base=base, **LARGE)
    torch.save({"model": as_fairseq2(model, pre=True)}, folder / "model.pt")


LAYOUTS = (
    Layout("Hugging Face `Wav2Vec2ForPreTraining`", _folder("Wav2Vec2ForPreTraining", **LARGE)),
    Layout("Hugging Face `Wav2Vec2ForCTC`", _folder("Wav2Vec2ForCTC")),
    Layout("Hugging Face `HubertForCTC`", _folder("HubertForCTC")),
    Layout("Hugging Face `WavLMForCTC`", _folder("WavLMForCTC")),
    Layout("Hugging Face `Data2VecAudioForCTC`", _folder("Data2VecAudioForCTC")),
    Layout("Hugging Face `Wav2Vec2ConformerForCTC`", _folder("Wav2Vec2ConformerForCTC")),
    Layout("the same, rotary positions", _folder("Wav2Vec2ConformerForCTC", position_embeddings_type="rotary")),
    Layout("Hugging Face, `pytorch_model.bin`", _pickled),
    Layout("Hugging Face, shards", _sharded),
    Layout("fairseq wav2vec 2.0", _fairseq(hubert=False), "model.pt"),
    Layout("fairseq HuBERT", _fairseq(hubert=True), "model.pt"),
    Layout("fairseq, fine-tuned", _fairseq(hubert=False, tuned=32), "model.pt"),
    Layout("fairseq2 wav2vec 2.0 (omniASR W2V)", _fairseq2, "model.pt"),
    Layout("torchaudio, fine-tuned", _fairseq(hubert=False, tuned=32, library="torchaudio"), "model.pt"),
)


def _row(layout: Layout, work: Path, arguments: argparse.Namespace) -> str:
    processor = layout.write(work / "theirs", not arguments.tiny)
    source, ours = work / "theirs" / layout.file, work / "ours"
    began = time.perf_counter()
    import_model(str(source), ours, ImportConfig(audio=tuple(arguments.audio)), say=lambda text: None)
    seconds = time.perf_counter() - began
    written = json.loads((ours / "config.json").read_text(encoding="utf-8"))
    text = "–"
    if processor is not None:
        equal = sum(_same_text(ours, processor, work / "theirs", Path(name)) for name in arguments.audio)
        text = f"{equal} of {len(arguments.audio)}"
    tuned = _tuned(source, work / "run", arguments) if arguments.shards else ""
    info = written["info"]
    cells = [layout.name, info.get("objective", "–"), f"{info['largest_difference']:.1e}", text, f"{seconds:.0f} s"]
    return f"| {' | '.join(cells)} |{tuned}"


def _same_text(ours: Path, processor: Any, theirs: Path, audio: Path) -> bool:
    import transformers

    wave = torch.from_numpy(decode(audio, item=str(audio), duration=None))
    model = transformers.AutoModelForCTC.from_pretrained(theirs).eval()
    with torch.no_grad():
        scores = model(processor(wave.numpy(), sampling_rate=16_000, return_tensors="pt").input_values).logits
    said = " ".join(processor.batch_decode(scores.argmax(-1))[0].lower().split())
    recogniser, tokens = load_recogniser(ours)
    (log_probs,) = frame_log_probs(recogniser, wave[None], torch.tensor([len(wave)]))
    return bool(build_decoder(DecoderConfig(), tokens)(log_probs).text == said)


def _tuned(source: Path, folder: Path, arguments: argparse.Namespace) -> str:
    data = DataConfig(shards=arguments.shards, batch_seconds=8.0, max_seconds=8.0, workers=0)
    cfg = FinetuneConfig(
        init=str(source),
        output=str(folder),
        ctc=CtcConfig(freeze_steps=2),
        data=data,
        dev=DataConfig(splits=("none",), shards=arguments.shards),
        training=TrainingConfig(steps=arguments.steps, log_every=1, validate_every=arguments.steps, precision="fp32"),
    )
    finetune(cfg)
    losses = [line["loss"] for line in read_metrics(folder / "metrics.jsonl") if line["phase"] == "train"]
    items = recordings(DataConfig(shards=arguments.shards, splits=("test",), max_seconds=8.0), arguments.utterances)
    rows = [exported(folder / "model", form, items) for form in arguments.to]
    found = [f"{row['largest difference']:.1e}, {row['same text']}" if "frames" in row else row["out"] for row in rows]
    return " ".join(f"{cell} |" for cell in [f" {losses[0]:.2f} → {losses[-1]:.2f}", *found])


def main() -> None:
    """Print one row of the table for each layout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", nargs="*")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--shards", default="")
    parser.add_argument("--only", default="", help="layouts whose name holds this")
    parser.add_argument("--utterances", type=int, default=40)
    parser.add_argument("--to", nargs="*", default=["hf"], choices=get_args(Format))
    arguments = parser.parse_args()
    tail = [f" loss of {arguments.steps} steps |", *(f" {form} |" for form in arguments.to)] if arguments.shards else []
    print(f"| format | heads of | largest difference | text equal | read and compared |{''.join(tail)}")
    print(f"|---|---|---|---|---|{'---|' * len(tail)}", flush=True)
    for layout in LAYOUTS:
        if arguments.only in layout.name:
            with TemporaryDirectory() as work:
                print(_row(layout, Path(work), arguments), flush=True)


if __name__ == "__main__":
    main()
