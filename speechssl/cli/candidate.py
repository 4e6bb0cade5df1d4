"""One verb in a process of its own: ``python -m speechssl.cli.candidate PARENT VERB ...``.

In: the process id of the one that started it, and a command line. Out: what the verb writes, and its exit code.
workflows/side_by_side.py starts it.
"""

import sys

from speechssl.cli.main import main
from speechssl.core.processes import end_with_parent

__all__ = ["candidate"]


def candidate(parent: str, *words: str) -> int:
    """Run a verb in this process; save and end when the one that started it is gone, even when it was killed."""
    end_with_parent(int(parent))
    return main(words)


if __name__ == "__main__":
    sys.exit(candidate(*sys.argv[1:]))
