"""What ``speechssl --help`` and ``speechssl VERB --help`` print.

In: the name of a verb and the configuration it starts from. Out: usage, what the verb does, two examples, flags, and
the settings with their values.
"""

import shutil
import textwrap
from typing import Any, NamedTuple

__all__ = ["VERB_HELP", "listing", "usage", "verb_help"]


class _Verb(NamedTuple):
    usage: str
    """Words after the verb."""
    does: str
    """Sentences on what the verb does."""
    examples: tuple[str, str]
    """Two commands."""
    flags: tuple[tuple[str, str], ...] = ()
    """Options that are no settings, and what they do."""


_PROFILE = ("--profile", "Record 5 steps with PyTorch's profiler: --training.profile 5.")
_LOG = ("--log NAME ...", "Metrics also go to wandb, trackio, mlflow or tensorboard.")
_CHANGES = ("--allow-changes", "Resume although the settings or the corpus have changed; the ledger says so.")

VERB_HELP = {
    "run": _Verb(
        "FOLDER [CONFIG]",
        "Goes from a folder of audio to a report with every verb below, stage by stage. A stopped run resumes.",
        ("speechssl run my-audio", "speechssl run my-audio run-tiny --output runs/first"),
    ),
    "demo": _Verb(
        "[CONFIG]",
        "Shows what pretraining is worth: on synthetic speech that it makes, or on audio of yours.",
        ("speechssl demo --smoke", "speechssl demo --corpus my-audio --output runs/demo"),
        (("--smoke", "Take the same path in about two minutes, without a meaningful result."),),
    ),
    "corpus": _Verb(
        "list|NAME [FOLDER [CONFIG]]",
        "Lists the public corpora, describes one, or downloads one and writes its manifest with its own splits.",
        ("speechssl corpus list", "speechssl corpus librispeech data --download --subset dev-clean"),
    ),
    "manifest": _Verb(
        "FOLDER OUTPUT [CONFIG]",
        "Finds audio and transcripts in a folder or in webdataset tars. Writes OUTPUT/manifest.jsonl and a ledger.",
        ("speechssl manifest my-audio corpus", "speechssl manifest my-audio corpus --max-seconds 20"),
    ),
    "shard": _Verb(
        "MANIFEST OUTPUT [CONFIG]",
        "Converts the audio of a manifest to 16 kHz mono in webdataset tars with an index. OUTPUT is a folder or the "
        "address of an object store.",
        ("speechssl shard corpus/manifest.jsonl shards", "speechssl shard corpus s3://bucket/shards --encoding pcm16"),
        (("--part I/N", "Make the I-th of N parts, for a job array; then run without it for the listing."),),
    ),
    "verify": _Verb(
        "SHARDS",
        "Reads every shard and compares it with its index and checksums. Lists what differs.",
        ("speechssl verify shards", "speechssl verify shards > problems.tsv"),
    ),
    "audit": _Verb(
        "MANIFEST|FOLDER [CONFIG]",
        "Looks for duplicates, leaks and faults of sound and text. Writes a page; the exit code is for CI.",
        ("speechssl audit my-audio", "speechssl audit corpus/manifest.jsonl --fail-on warning"),
    ),
    "estimate": _Verb(
        "CONFIG",
        "Estimates memory and time of pretraining or fine-tuning from a short probe on this machine. CONFIG is one of "
        "pretrain or finetune, whose settings can be changed as there.",
        ("speechssl estimate wav2vec2-base --world 8", "speechssl estimate hubert-cpu --data.batch-seconds 40 --json"),
        (("--world N", "Devices that share each step (1)."), ("--json", "Print JSON, with what was measured.")),
    ),
    "pretrain": _Verb(
        "[CONFIG]",
        "Pretrains an encoder on shards with a self-supervised objective. Start it with torchrun on several devices.",
        (
            "speechssl pretrain wav2vec2-base --data.shards shards --output runs/mine",
            "torchrun --nproc-per-node 8 -m speechssl pretrain mine.toml",
        ),
        (_LOG, _PROFILE, _CHANGES),
    ),
    "finetune": _Verb(
        "[CONFIG]",
        "Fine-tunes a pretrained encoder with CTC on transcribed shards. Start it with torchrun on several devices.",
        (
            "speechssl finetune finetune-1h --data.shards shards --init runs/mine/model",
            "speechssl finetune finetune-cpu --data.shards shards --output runs/scratch",
        ),
        (_LOG, _PROFILE, _CHANGES),
    ),
    "selftrain": _Verb(
        "[CONFIG]",
        "Transcribes speech with a fine-tuned model, and fine-tunes on the confident transcripts, too. It repeats that "
        "while dev improves; a stopped one resumes.",
        (
            "speechssl selftrain selftrain-cpu --model runs/asr/model",
            "speechssl selftrain selftrain-tiny --finetune.data.shards shards",
        ),
    ),
    "import": _Verb(
        "MODEL OUTPUT [CONFIG]",
        "Writes a model of another library as a model folder, after comparing both layer by layer. MODEL is a folder "
        "of Hugging Face, hf:org/name, or a file of fairseq, fairseq2 or torchaudio.",
        (
            "speechssl import hf:facebook/wav2vec2-base models/base --audio talk.wav",
            "speechssl import wav2vec_small.pt models/small",
        ),
    ),
    "lm": _Verb(
        "TEXT|MANIFEST|SHARDS OUTPUT [CONFIG]",
        "Estimates an n-gram language model (modified Kneser-Ney) and writes it as an ARPA file, for decoding.",
        ("speechssl lm shards runs/asr/model/lm.arpa.gz", "speechssl lm text.txt lm.arpa --order 4"),
    ),
    "tune": _Verb(
        "[CONFIG]",
        "Chooses the decoder's weights on a dev set. Writes decoder.toml, which evaluate takes.",
        (
            "speechssl tune --model runs/asr/model --data.shards shards",
            "speechssl tune --model M --data.shards shards --decoder.lm lm.arpa",
        ),
    ),
    "evaluate": _Verb(
        "[CONFIG]",
        "Decodes a split and reports its word error rate with an interval.",
        (
            "speechssl evaluate --model runs/asr/model --data.shards shards",
            "speechssl evaluate --model M --data.shards shards --decoder.kind lm",
        ),
    ),
    "export": _Verb(
        "MODEL OUTPUT [CONFIG]",
        "Writes a model for transformers, torchaudio or ONNX, and compares them on real recordings. What gives other "
        "numbers is not written.",
        (
            "speechssl export runs/asr/model exported --to hf",
            "speechssl export M exported --to onnx --int8 --data.shards shards",
        ),
    ),
    "transcribe": _Verb(
        "FILE|FOLDER|-...",
        "Transcribes audio of any length to text and word times: TextGrid, CTM, SRT, VTT, JSON.",
        (
            "speechssl transcribe talk.mp3 --model runs/asr/model",
            "speechssl transcribe my-audio --model M --output texts --format text,srt",
        ),
    ),
    "align": _Verb(
        "MANIFEST|AUDIO [TEXT...]",
        "Finds when the words of known transcripts were spoken. Writes the formats of transcribe, or a manifest of "
        "training utterances cut out of long recordings.",
        (
            "speechssl align corpus/manifest.jsonl --model M --output aligned --format ctm",
            "speechssl align talk.wav talk.txt --model M --output cut --format manifest",
        ),
    ),
    "score": _Verb(
        "REF HYP...",
        "Scores the transcripts of any system: text, Kaldi, NIST trn or stm and ctm, JSON lines.",
        ("speechssl score ref.trn mine.trn other.trn", "speechssl score ref.stm mine.ctm --cost sclite"),
    ),
    "compare": _Verb(
        "RUN RUN...",
        "Compares systems that were scored on the same utterances: which is better, by how much, how sure, and where.",
        ("speechssl compare runs/base runs/new", "speechssl compare base=a/evaluate lm=b/evaluate --output compare"),
    ),
    "compare-objectives": _Verb(
        "[CONFIG]",
        "Trains objectives with the same encoder, audio and updates, fine-tunes each on the same labels, and writes a "
        "page. Says first how long it will take; a stopped comparison resumes.",
        (
            "speechssl compare-objectives compare-tiny --corpus my-audio",
            "speechssl compare-objectives compare-cpu --corpus my-audio --arms hubert-cpu",
        ),
    ),
    "understand": _Verb(
        "MODEL... MANIFEST|SHARDS",
        "Shows on one page what one to four models have learned: the verbs layers, abx and probe. A stopped one "
        "resumes.",
        (
            "speechssl understand mine=runs/mine/model logmel shards --alignment phones.ctm",
            "speechssl understand before=A/model after=B/model shards --tasks speaker text",
        ),
    ),
    "features": _Verb(
        "MODEL MANIFEST|SHARDS OUT [CONFIG]",
        "Writes the frames of a model's layers. MODEL is a model folder, logmel, mfcc, or random:FOLDER.",
        (
            "speechssl features runs/mine/model shards features",
            "speechssl features logmel corpus features --pool mean --format npz",
        ),
    ),
    "probe": _Verb(
        "MODEL TASK [CONFIG]",
        "Trains small heads on the frozen layers of a model. TASK is a field of the manifest, pitch, energy, "
        "phones, or one of libri-1h, an4, libri-speakers, an4-speakers, digits, keywords, drinks and sound-events.",
        (
            "speechssl probe runs/mine/model speaker --data shards --output runs/speakers",
            "speechssl probe logmel meta.intent --data corpus --heads linear mlp knn",
        ),
    ),
    "units": _Verb(
        "MODEL MANIFEST|SHARDS OUT [CONFIG]",
        "Clusters the frames of a layer, labels every utterance, and compares the units with phones.",
        (
            "speechssl units runs/mine/model shards units --layer 3 --clusters 100",
            "speechssl units M shards units --alignment phones.ctm --seeds 1 2 3",
        ),
    ),
    "layers": _Verb(
        "MODEL... MANIFEST|SHARDS",
        "Compares the layers of one to four models with each other, and with log-mel, phones, words and "
        "speakers.",
        (
            "speechssl layers runs/mine/model shards --alignment phones.ctm",
            "speechssl layers before=runs/mine/model after=runs/tuned/model shards",
        ),
    ),
    "abx": _Verb(
        "MODEL MANIFEST|SHARDS OUT [CONFIG]",
        "Measures how well the layers of a model tell phones apart, within and across speakers, without training.",
        (
            "speechssl abx runs/mine/model shards abx --alignment phones.ctm",
            "speechssl abx mfcc corpus abx --alignment dev-clean.item --stack 1",
        ),
    ),
    "report": _Verb(
        "RUN",
        "Writes report.html, report.json and report.txt of a run folder.",
        ("speechssl report runs/mine", "speechssl report runs/mine/finetune"),
    ),
    "launch": _Verb(
        "[--slurm FILE ...] -- VERB ...",
        "Writes an sbatch script for a command. SLURM asks the job to save before its time ends, and queues it again.",
        (
            "speechssl launch --slurm job.sh --nodes 2 --gpus 8 -- pretrain mine.toml",
            "speechssl launch --slurm job.sh --parts 100 -- shard corpus shards",
        ),
    ),
}  # fmt: skip
"""Verb -> its help, in the order of the listing."""


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 100)


def listing(presets: list[str], version: str) -> str:
    """Return the help of the whole program: a few lines for each verb."""
    lines = ["speechssl: from a folder of raw audio to a word error rate you can defend.", ""]
    lines += ["usage: speechssl VERB ... [--a.b value ...]", ""]
    for verb, about in VERB_HELP.items():
        first = about.does.partition(". ")[0].removesuffix(".")
        lines.append(f"  {verb} {about.usage}")
        lines += textwrap.wrap(first, _width(), initial_indent=" " * 6, subsequent_indent=" " * 6)
    last = f"CONFIG is a TOML file or the name of a preset: {', '.join(presets)}."
    lines += ["", *textwrap.wrap(last, _width(), break_on_hyphens=False)]
    lines.append(f"'speechssl VERB --help' shows the settings of a verb. Version {version}.")
    return "\n".join(lines) + "\n"


def usage(verb: str) -> str:
    """Return a verb with its positional arguments."""
    return f"speechssl {verb} {VERB_HELP[verb].usage}"


def verb_help(verb: str, cfg: Any = None, *, everything: bool = False) -> str:
    """Return the help of a verb; ``cfg`` has its settings (None: it has none), ``everything`` lists the rare ones."""
    from speechssl.config.help import settings, settings_lines

    about, width = VERB_HELP[verb], _width()
    options = " [--a.b value ...]" if cfg is not None or about.flags else ""
    lines = [f"usage: {usage(verb)}{options}", "", *textwrap.wrap(about.does, width)]
    lines += ["", "examples:", *(f"  {example}" for example in about.examples)]
    lines += [""] * bool(about.flags)
    for flag, does in about.flags:
        lines += textwrap.wrap(f"  {flag}  {does}", width, subsequent_indent=" " * 8)
    if cfg is not None:
        hidden = sum(setting.rare for setting in settings(cfg))
        note = "A value in [brackets] is that of CONFIG, or the default."
        if hidden and not everything:
            note += f" --help-all also shows the {hidden} settings that are rarely changed."
        lines += ["", *textwrap.wrap(note, width), "", *settings_lines(cfg, width, everything=everything)]
    return "\n".join(lines) + "\n"
