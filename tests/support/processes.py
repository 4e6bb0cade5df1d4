"""Processes as /proc shows them: which are alive, and which were started by whom."""

from pathlib import Path

__all__ = ["alive", "children", "parent"]


def _state_and_parent(pid: int) -> tuple[str, int] | None:
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[:2]
    except OSError:
        return None
    return state, int(parent)


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and was not waited for does not."""
    found = _state_and_parent(pid)
    return found is not None and found[0] != "Z"


def parent(pid: int) -> int:
    """Return the parent of a living process."""
    found = _state_and_parent(pid)
    assert found is not None
    return found[1]


def children(pid: int) -> list[int]:
    """Return the living processes that a process started."""
    pids = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return [child for child in pids if (found := _state_and_parent(child)) and found[1] == pid and found[0] != "Z"]
