"""Results of a probe, for scripts and for people.

In: what each head reached. Out: plain values for ``probe.json``, text for ``probe.txt``.
"""

from dataclasses import asdict, dataclass
from typing import Any

from speechssl.config import ProbeConfig
from speechssl.core.text_table import interval_text, percent, text_table
from speechssl.evaluation.bootstrap import Interval
from speechssl.understanding.tasks import NUMBERS, Task, majority_error

__all__ = ["HeadResult", "document", "report"]


@dataclass(frozen=True)
class HeadResult:
    """What one head reached on test."""

    head: str
    error: float
    """Errors over totals, all seeds together."""
    interval: Interval | None
    """95 %, over utterances."""
    seeds: tuple[float, ...]
    """Error of each seed."""
    dev: float
    rate: float | None
    layers: dict[int, float]
    """Weight of each layer, the mean over seeds; of ``knn`` the chosen layer."""
    parameters: int
    seconds: float
    eer: float | None = None
    """Equal error rate of verification, mean over seeds."""
    eer_interval: Interval | None = None
    """95 %, over speakers, of the first seed."""
    trials: int = 0


def document(model: str, task: Task, results: list[HeadResult], cfg: ProbeConfig) -> dict[str, Any]:
    """Return the results as plain values."""
    return {
        "model": model, "task": task.name, "kind": task.kind, "classes": len(task.classes),
        "utterances": {split: len(items) for split, items in task.ids.items()}, "majority_error": majority_error(task),
        "notes": list(task.notes), "settings": asdict(cfg),
        "heads": [asdict(result) for result in results],
    }  # fmt: skip


MEASURE = {"text": "label error rate", "class": "error rate", "speaker": "error rate", "frames": "frame error rate"}


def report(model: str, task: Task, results: list[HeadResult]) -> str:
    """Return the results as text: one line a head, then the weights of the layers."""
    measure = "unexplained variance" if task.name in NUMBERS else MEASURE[task.kind]
    sizes = ", ".join(f"{len(items):,} {split}" for split, items in task.ids.items())
    lines = [
        f"{model}, task {task.name}: {measure} on test with a 95 % interval over utterances",
        f"utterances: {sizes}",
    ]
    if (chance := majority_error(task)) is not None:
        lines.append(f"always the most frequent of {len(task.classes)} classes: {percent(chance)}")
    rows = []
    for item in results:
        low, high = item.interval or (None, None)
        spread = f"{percent(min(item.seeds))} to {percent(max(item.seeds))}"
        eer = (
            percent(item.eer) + " " + interval_text(*(item.eer_interval or (None, None)))
            if item.eer is not None
            else ""
        )
        rate = "" if item.rate is None else f"{item.rate:g}"
        rows.append(
            [item.head, percent(item.error), interval_text(low, high), spread, rate, f"{item.seconds:.0f} s", eer]
        )
    lines += [
        "",
        text_table(["head", "test", "interval", "seeds", "rate", "time", "EER"], rows),
        "weights of the layers:",
    ]
    for item in results:
        lines.append(f"  {item.head}: " + "  ".join(f"{layer}: {weight:.2f}" for layer, weight in item.layers.items()))
    return "\n".join([*lines, *(f"note: {note}" for note in task.notes)]) + "\n"
