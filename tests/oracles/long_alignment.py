"""The best path of a recording and its text with gaps, as a search of an explicit graph; slow, scalar, float64.

It is written from the definition and shares nothing with the package. A state is ("label", i), ("blank", i), which
comes before label i, or ("gap", k), which comes before word k.
"""

import math

State = tuple[str, int]


def arcs(labels: list[int], first: list[int], last: list[int], gaps: bool) -> dict[State, list[State]]:
    """For each state, the states of the frame before."""
    came: dict[State, list[State]] = {("blank", 0): [("blank", 0)]}
    for i, label in enumerate(labels):
        came[("label", i)] = [("label", i), ("blank", i)]
        if i and label != labels[i - 1]:
            came[("label", i)].append(("label", i - 1))
        came[("blank", i + 1)] = [("blank", i + 1), ("label", i)]
    if gaps:
        came[("gap", 0)] = [("gap", 0)]
        for k in range(len(first)):
            came[("label", first[k])].append(("gap", k))
            came[("gap", k + 1)] = [("gap", k + 1), ("label", last[k]), ("blank", last[k] + 1)]
    return came


def emission(row: list[float], state: State, labels: list[int], gap_cost: float) -> float:
    kind, number = state
    return max(max(row) - gap_cost, row[0]) if kind == "gap" else row[labels[number] if kind == "label" else 0]


def best_score(
    log_probs: list[list[float]],
    labels: list[int],
    first: list[int],
    last: list[int],
    *,
    gaps: bool,
    gap_cost: float,
    enter_cost: float,
    skip_cost: float,
    skip_label_cost: float,
) -> float:
    """Return the log-probability of the best path, less the costs of its gaps and of the words it leaves out."""
    came = arcs(labels, first, last, gaps)
    starts = [*first, len(labels)]
    now = dict.fromkeys(came, -math.inf)
    now[("blank", 0)] = 0.0
    if gaps:
        now[("gap", 0)] = 0.0
    for row in log_probs:
        new = {
            state: max(now[each] - enter_cost * (state[0] == "gap" != each[0]) for each in before)
            + emission(row, state, labels, gap_cost)
            for state, before in came.items()
        }
        entered = dict(new)
        for k in range(len(starts) if gaps else 0):
            for j in range(k):
                cost = skip_cost + skip_label_cost * (starts[k] - starts[j])
                new[("gap", k)] = max(new[("gap", k)], entered[("gap", j)] - cost)
        now = new
    ends = [("label", len(labels) - 1), ("blank", len(labels)), *([("gap", len(first))] if gaps else [])]
    return max(now[state] for state in ends)
