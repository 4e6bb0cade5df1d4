"""The command line: ``speechssl VERB ...``. One short function a verb; everything heavy is imported inside it.

Exit codes: 0 done, 1 a clear error, 2 a wrong command line, 75 interrupted and saved (run the same command to resume).
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TypeVar

from speechssl import __version__
from speechssl.errors import ConfigError, InterruptedRun, SpeechsslError

__all__ = ["EXIT_INTERRUPTED", "main"]

EXIT_INTERRUPTED = 75

T = TypeVar("T")

HELP = """\
speechssl: from a folder of raw audio to a word error rate you can defend.

usage: speechssl VERB ... [--a.b value ...]

  run FOLDER [CONFIG]               everything below, stage by stage; resumes where it stopped
  demo [CONFIG] [--smoke]           makes its own corpus, shows what pretraining is worth; --corpus FOLDER: your audio

  manifest FOLDER OUTPUT [CONFIG]   find audio and transcripts; write OUTPUT/manifest.jsonl and a ledger of what is bad
  shard MANIFEST OUTPUT [CONFIG]    resample to 16 kHz mono FLAC in webdataset tars with an index
  verify SHARDS                     check shards against their index and checksums
  pretrain [CONFIG]                 self-supervised pretraining (wav2vec 2.0, HuBERT); under torchrun on many devices
  finetune [CONFIG]                 CTC fine-tuning on transcripts
  evaluate [CONFIG]                 decode a split and report its word error rate with an interval
  transcribe FILE...                transcribe audio files of any length
  report RUN                        one self-contained report.html for a run folder

CONFIG is a TOML file or the name of a preset: {presets}.
'speechssl VERB --help' lists every setting of a verb. Version {version}.
"""


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (positional arguments, overrides): positionals come first, the first ``--`` word starts the overrides."""
    for i, word in enumerate(arguments):
        if word.startswith("-"):
            return list(arguments[:i]), list(arguments[i:])
    return list(arguments), []


def _positional(words: list[str], names: Sequence[str], verb: str, *, optional: int = 0) -> list[str | None]:
    """Check the number of positional arguments; missing optional ones are None."""
    if not len(names) - optional <= len(words) <= len(names):
        wanted = " ".join(f"[{n}]" if i >= len(names) - optional else n for i, n in enumerate(names))
        raise ConfigError(f"usage: speechssl {verb} {wanted} [--a.b value ...]   (got: {' '.join(words) or 'nothing'})")
    return [*words, *[None] * (len(names) - len(words))]


def _wants_help(overrides: list[str]) -> bool:
    return "--help" in overrides or "-h" in overrides


def _load(cls: type[T], verb: str, words: list[str], overrides: list[str], names: Sequence[str]) -> tuple[list[str], T]:
    """Return (required positionals, configuration) of a verb whose last positional is an optional CONFIG."""
    from speechssl.settings import load_config

    if _wants_help(overrides):
        words = words if len(words) == len(names) + 1 else [*names]  # the listing needs no real arguments
    given = _positional(words, [*names, "CONFIG"], verb, optional=1)
    cfg = load_config(cls, given[-1], overrides, prog=f"speechssl {verb} {' '.join([*names, '[CONFIG]'])}")
    return [str(word) for word in given[:-1]], cfg


def _manifest(words: list[str], overrides: list[str]) -> None:
    from speechssl.config import ManifestConfig
    from speechssl.data.manifest import build_manifest
    from speechssl.progress import progress
    from speechssl.settings import write_toml

    (folder, output), cfg = _load(ManifestConfig, "manifest", words, overrides, ["FOLDER", "OUTPUT"])
    with progress("manifest", unit="files") as advance:
        summary = build_manifest(Path(folder), Path(output), cfg, advance)
    write_toml(cfg, Path(output) / "config.toml")
    print(summary)


def _shard(words: list[str], overrides: list[str]) -> None:
    from speechssl.config import ShardConfig
    from speechssl.data.shards import shard_manifest
    from speechssl.progress import progress
    from speechssl.settings import write_toml

    (manifest, output), cfg = _load(ShardConfig, "shard", words, overrides, ["MANIFEST", "OUTPUT"])
    path = Path(manifest)
    with progress("shard", unit="utterances") as advance:
        summary = shard_manifest(path / "manifest.jsonl" if path.is_dir() else path, Path(output), cfg, advance)
    write_toml(cfg, Path(output) / "config.toml")
    print(summary)


def _verify(words: list[str], overrides: list[str]) -> int:
    if _wants_help(overrides):
        print("usage: speechssl verify SHARDS\n\nReads every shard and compares it with its index; lists what differs.")
        return 0
    if overrides:
        raise ConfigError(f"verify takes no settings (got {' '.join(overrides)})")
    (folder,) = _positional(words, ["SHARDS"], "verify")
    from speechssl.data.shards import verify_shards

    summary = verify_shards(Path(str(folder)))
    for problem in summary.problems:
        print(f"{problem.item}\t{problem.reason}\t{problem.detail}")
    print(f"{summary.checked} items checked, {len(summary.problems)} problems")
    return 0 if summary.ok else 1


def _pretrain(words: list[str], overrides: list[str]) -> None:
    from speechssl.config import PretrainConfig

    _, cfg = _load(PretrainConfig, "pretrain", words, overrides, [])
    from speechssl.training.pretrain import pretrain

    print(pretrain(cfg))


def _finetune(words: list[str], overrides: list[str]) -> None:
    from speechssl.config import FinetuneConfig

    _, cfg = _load(FinetuneConfig, "finetune", words, overrides, [])
    from speechssl.asr.finetune import finetune

    print(finetune(cfg))


def _evaluate(words: list[str], overrides: list[str]) -> None:
    from speechssl.config import EvaluateConfig

    _, cfg = _load(EvaluateConfig, "evaluate", words, overrides, [])
    from speechssl.asr.score import evaluate

    print(evaluate(cfg))


def _transcribe(words: list[str], overrides: list[str]) -> int:
    from speechssl.config import TranscribeConfig
    from speechssl.settings import load_config

    cfg = load_config(TranscribeConfig, None, overrides, prog="speechssl transcribe FILE...")
    if not words:
        raise ConfigError("usage: speechssl transcribe FILE... --model FOLDER")
    from speechssl.asr.transcribe import transcribe

    failed = 0
    for transcript in transcribe([Path(word) for word in words], cfg):
        failed += transcript.error is not None
        if transcript.error is not None:
            print(f"error: {transcript.error}", file=sys.stderr)
        elif not cfg.output:
            print(f"{transcript.path}\t{transcript.text}", flush=True)
    return 1 if failed else 0


def _report(words: list[str], overrides: list[str]) -> int:
    if _wants_help(overrides):
        print("usage: speechssl report RUN\n\nWrites RUN/report.html, report.json and report.txt.")
        return 0
    if overrides:
        raise ConfigError(f"report takes no settings (got {' '.join(overrides)})")
    (folder,) = _positional(words, ["RUN"], "report")
    from speechssl.reports.build import build_report

    print(build_report(Path(str(folder))))
    return 0


def _run(words: list[str], overrides: list[str]) -> None:
    from speechssl.config import RunConfig
    from speechssl.pipeline import default_preset, run

    if len(words) == 1 and not _wants_help(overrides):
        words = [*words, default_preset()]
    (folder,), cfg = _load(RunConfig, "run", words, overrides, ["FOLDER"])
    run(Path(folder), cfg)


def _demo(words: list[str], overrides: list[str]) -> None:
    from speechssl.demo import DemoConfig, demo

    smoke = "--smoke" in overrides
    overrides = [word for word in overrides if word != "--smoke"]
    words = words or (["demo-smoke"] if smoke else ["demo"])
    _, cfg = _load(DemoConfig, "demo", words, overrides, [])
    demo(replace(cfg, smoke=True) if smoke else cfg)


VERBS: dict[str, Callable[[list[str], list[str]], int | None]] = {
    "run": _run,
    "demo": _demo,
    "manifest": _manifest,
    "shard": _shard,
    "verify": _verify,
    "pretrain": _pretrain,
    "finetune": _finetune,
    "evaluate": _evaluate,
    "transcribe": _transcribe,
    "report": _report,
}


class _Terminated(KeyboardInterrupt):
    """SIGTERM; like Ctrl-C no ``Exception``, so that no library that expects failures takes it for one."""


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn SIGTERM into an exception: what a stage has started ends with it, and the exit code says "resume me".

    A second SIGTERM ends the process at once. Training has handlers of its own, which wait for the end of the step.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(number, signal.SIG_DFL)
        raise _Terminated(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        from speechssl.settings import presets

        print(HELP.format(presets=", ".join(presets()), version=__version__), end="")
        return 0 if words else 2
    if words[0] in ("--version", "version"):
        print(__version__)
        return 0
    verb = VERBS.get(words[0])
    if verb is None:
        import difflib

        close = difflib.get_close_matches(words[0], VERBS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; verbs: {', '.join(VERBS)}"
        print(f"error: unknown verb {words[0]!r}{hint}", file=sys.stderr)
        return 2
    try:
        with _stoppable():
            return verb(*_split(words[1:])) or 0
    except InterruptedRun as error:
        print(f"interrupted: {error}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except SpeechsslError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except _Terminated as stop:
        print(f"interrupted: {stop}; run the same command again to go on", file=sys.stderr)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has gone: not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # Permissions, full disks, names that are too long: the system's words, and the file they are about.
        print(f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}", file=sys.stderr)
        return 1
