"""Training of one head: a rate for each arm chosen on dev, and the best state of each seed.

In: examples of train and dev. Out: a head in evaluation mode and its errors on dev. The encoder is not involved.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from speechssl.config import ProbeConfig
from speechssl.core.randomness import generator, key
from speechssl.understanding.examples import Examples, batches, errors_of, loss_of, statistics
from speechssl.understanding.heads import HeadKind, ProbeHead
from speechssl.understanding.tasks import Kind

__all__ = ["HeadTraining", "Trained", "predict", "score"]

LOOKS = 10
"""Times that a head is compared on dev."""
CLIP = 5.0
"""Largest norm of the gradient."""
POOLED_MORE = 4
"""Pooled utterances an update, in multiples of ``batch``: one vector each costs little."""


@dataclass(frozen=True)
class Trained:
    """A head at its best on dev."""

    head: ProbeHead
    rate: float
    seed: int
    dev: tuple[float, float]
    """Errors over totals on dev, then the mean loss there, which decides between equal errors."""
    step: int
    """Updates until then."""


@dataclass(frozen=True)
class HeadTraining:
    """What every training of one head shares."""

    kind: HeadKind
    task: Kind
    train: Examples
    dev: Examples
    outputs: int
    cfg: ProbeConfig
    device: str

    def run(self) -> list[Trained]:
        """Try every rate with the first seed, and train the others with the best; return one head a seed."""
        first, *others = self.cfg.seeds
        mean, std = statistics(self.train)
        best = min((self._fit(mean, std, rate, first) for rate in self.cfg.rates), key=lambda item: item.dev)
        return [best, *(self._fit(mean, std, best.rate, seed) for seed in others)]

    def _fit(self, mean: torch.Tensor, std: torch.Tensor, rate: float, seed: int) -> Trained:
        cfg, train, device = self.cfg, self.train, self.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key("probe", self.kind, seed))
            pool = self.task in ("class", "speaker")
            head = ProbeHead(self.kind, mean, std, hidden=cfg.hidden, outputs=self.outputs, pool=pool)
        head.to(device)
        optimizer = torch.optim.Adam(head.parameters(), lr=rate, fused=True)
        single = all(x.shape[1] == 1 for x in train.features)
        size = min(cfg.batch * (POOLED_MORE if single else 1), len(train))
        looks = {max(1, round(cfg.steps * look / LOOKS)) for look in range(1, LOOKS + 1)}
        random = generator("probe-order", seed, len(train))
        order: list[int] = []
        best: tuple[tuple[float, float], int, dict[str, torch.Tensor]] | None = None
        for step in range(1, cfg.steps + 1):
            if len(order) < size:
                order += random.permutation(len(train)).tolist()
            rows, order = order[:size], order[size:]
            for x, frames, targets in batches(train, size, rows):
                loss = loss_of(self.task, head(x.to(device), frames), frames, targets)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(head.parameters(), CLIP)
                optimizer.step()
            if step in looks:
                counts, mean_loss = score(head, self.task, self.dev, device=device)
                found = (sum(wrong for wrong, _ in counts) / max(1, sum(total for _, total in counts)), mean_loss)
                if best is None or found < best[0]:
                    best = found, step, {name: value.clone() for name, value in head.state_dict().items()}
        assert best is not None
        head.load_state_dict(best[2])
        return Trained(head.eval(), rate, seed, best[0], best[1])


@torch.no_grad()
def score(head: ProbeHead, task: Kind, examples: Examples, *, device: str) -> tuple[list[tuple[int, int]], float]:
    """Return (errors, total) of each utterance, and the mean loss."""
    counts, losses = [], 0.0
    for x, frames, targets in batches(examples, 16, range(len(examples))):
        scores = head(x.to(device), frames)
        counts += errors_of(task, scores, frames, targets)
        losses += float(loss_of(task, scores, frames, targets)) * len(targets)
    return counts, losses / max(1, len(examples))


@torch.no_grad()
def predict(head: ProbeHead, features: Sequence[torch.Tensor], *, embed: bool = False) -> list[torch.Tensor]:
    """Return the scores [F, outputs] of each utterance, features [L, F, D]; with ``embed`` what they are made from."""
    device = head.output.weight.device
    found = []
    for x in features:
        frames = torch.tensor([x.shape[1]])
        found.append((head.embed if embed else head)(x[None].to(device), frames)[0].cpu())
    return found
