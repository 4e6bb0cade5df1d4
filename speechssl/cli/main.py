"""The command line: ``speechssl VERB ...``. The verbs are in the files beside this one, one short function each.

Exit codes: 0 done, 1 a clear error, 2 a wrong command line, 75 interrupted and saved (run the same command to resume).
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from speechssl.cli import data, recognition, scoring, training, transcription, understanding
from speechssl.cli.arguments import Verb, split
from speechssl.cli.help import listing
from speechssl.core.errors import InterruptedRun, SpeechsslError
from speechssl.core.version import __version__

__all__ = ["EXIT_INTERRUPTED", "main"]

EXIT_INTERRUPTED = 75

VERBS: dict[str, Verb] = {
    "run": training.run,
    "demo": training.demo,
    "corpus": data.corpus,
    "manifest": data.manifest,
    "shard": data.shard,
    "verify": data.verify,
    "audit": data.audit,
    "estimate": training.estimate,
    "pretrain": training.pretrain,
    "finetune": training.finetune,
    "selftrain": training.selftrain,
    "import": training.import_model,
    "lm": recognition.lm,
    "tune": recognition.tune,
    "evaluate": recognition.evaluate,
    "export": recognition.export,
    "transcribe": transcription.transcribe,
    "align": transcription.align,
    "score": scoring.score,
    "compare": scoring.compare,
    "compare-objectives": training.compare_objectives,
    "understand": understanding.understand,
    "features": understanding.features,
    "probe": understanding.probe,
    "units": understanding.units,
    "layers": understanding.layers,
    "abx": understanding.abx,
    "report": scoring.report,
    "launch": training.launch,
}


class _Terminated(KeyboardInterrupt):
    """SIGTERM. As it is no ``Exception``, libraries that catch failures do not catch it."""


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn SIGTERM into an exception: a stage then ends its processes, and the exit code asks to run it again.

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
        from speechssl.core.presets import presets

        print(listing(presets(), __version__), end="")
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
            return verb(*split(words[1:])) or 0
    except InterruptedRun as error:
        print(f"interrupted: {error}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except SpeechsslError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except _Terminated as stop:
        print(f"interrupted: {stop}; run the same command again to resume", file=sys.stderr)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of standard output (head, less) has closed the pipe, which is no error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # Permissions, full disks, long names: print the system's message with the file.
        print(f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}", file=sys.stderr)
        return 1
