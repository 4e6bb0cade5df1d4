"""One fine-tuning of a sweep, in a process of its own: ``python -m speechssl.cli.candidate PARENT REQUEST``.

In: the process id of the one that started it, and a file with a fine-tuning configuration. Out: a run folder, and the
exit code of ``speechssl finetune``. workflows/sweep.py starts it.
"""

import sys

from speechssl.cli.main import main
from speechssl.core.processes import end_with_parent

__all__ = ["candidate"]


def candidate(parent: str, request: str) -> int:
    """Fine-tune in this process; save and end when the one that started it is gone, even when it was killed."""
    end_with_parent(int(parent))
    return main(["finetune", request])


if __name__ == "__main__":
    sys.exit(candidate(*sys.argv[1:]))
