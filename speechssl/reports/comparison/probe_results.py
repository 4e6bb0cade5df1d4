"""What probes of frozen models found in a comparison of objectives, and whether they foretell its word error rates.

In: ``probes/TASK/probe.json`` in the folders of the arms. Out: errors by task and head, and their rank correlation with
the word error rate after fine-tuning.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from speechssl.core.files import read_json
from speechssl.core.text_table import percent
from speechssl.evaluation.compare.ranks import RankCorrelation, rank_correlation

__all__ = ["PROBES", "PROBES_NOTE", "RANKS", "RANKS_NOTE", "correlations", "probe_errors", "probe_table", "rank_rows"]

PROBES = "probes"
"""In the folder of an arm: a folder for each task."""
PROBES_NOTE = (
    "Frozen models: test error of small heads on the frozen layers, a mean over seeds; of layers and abx, shares. From "
    "scratch: random weights."
)
RANKS = ("probe", "rank correlation", "95 % interval", "arms")
RANKS_NOTE = (
    "Which probe orders the arms as their test WER does (a mean over label sets): Spearman's rank correlation, 1 for "
    "the same order, and its percentile interval (bootstrap over arms)."
)


def probe_errors(folders: Sequence[Path]) -> dict[str, float]:
    """Return the test error of each task and head, and the equal error rate of speakers: a mean over an arm's folders.

    Raises DataError when a ``probe.json`` is damaged.
    """
    found: dict[str, list[float]] = {}
    for folder in folders:
        for path in sorted((folder / PROBES).glob("*/probe.json")):
            content = read_json(path, f"delete {path.parent} to probe again")
            for head in content["heads"]:
                name = f"{content['task']}, {head['head']}"
                found.setdefault(name, []).append(head["error"])
                if head["eer"] is not None:
                    found.setdefault(f"{name}, EER", []).append(head["eer"])
    return {name: mean(values) for name, values in found.items()}


def correlations(
    arms: Sequence[tuple[Mapping[str, float], float | None]], *, n: int, seed: int
) -> dict[str, RankCorrelation]:
    """Return probe -> how well its errors order the arms as their word error rates do.

    Parameters
    ----------
    arms
        The errors of an arm's probes (`probe_errors`), and its word error rate. Only arms that have both are counted; a
        probe without a correlation (`rank_correlation`) is left out.
    n, seed
        Of the bootstrap.
    """
    found = {}
    for name in dict.fromkeys(name for errors, _ in arms for name in errors):
        pairs = [(errors[name], wer) for errors, wer in arms if name in errors and wer is not None]
        found[name] = rank_correlation([error for error, _ in pairs], [wer for _, wer in pairs], n=n, seed=seed)
    return {name: value for name, value in found.items() if value is not None}


def probe_table(arms: Sequence[tuple[str, Mapping[str, float]]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return header and rows of (title, errors); no row where nothing was probed."""
    names = list(dict.fromkeys(name for _, errors in arms for name in errors))
    rows = [(title, *(percent(errors.get(name), 1) for name in names)) for title, errors in arms if errors]
    return ("objective", *(f"{name} %" for name in names)), rows


def rank_rows(found: Mapping[str, RankCorrelation]) -> list[tuple[str, ...]]:
    """Return the rows under `RANKS`."""
    return [
        (name, f"{each.value:+.2f}", f"{each.low:+.2f} to {each.high:+.2f}", str(each.systems))
        for name, each in found.items()
    ]
