"""The profile: every component named, the times those of the profiler, the weights untouched by it."""

import json
import time

import torch
from torch import nn

from speechssl.training.monitoring.profile import Profile, table


class Encoder(nn.Module):
    """Parts with the names of the real one, of known relative cost."""

    def __init__(self):
        super().__init__()
        self.frontend = nn.Linear(64, 1500)
        self.feature_norm = nn.LayerNorm(1500)
        self.projection = nn.Linear(1500, 64)
        self.position = nn.Linear(64, 64)
        self.blocks = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))

    def forward(self, x):
        x = self.projection(self.feature_norm(self.frontend(x)))
        x = x + self.position(x)
        for block in self.blocks:
            x = block(x)
        return x


class Task(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.head = nn.Linear(64, 500)

    def forward(self, x):
        return self.head(self.encoder(x)).square().mean()


def run(folder, steps, watched, start=0):
    torch.manual_seed(0)
    task = Task()
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-3)
    x = torch.randn(256, 64)
    with Profile(task, folder, start=start, steps=watched) as profile:
        for step in range(start, steps):
            profile.begin_step(step)
            with profile.part("loader"):
                time.sleep(0.001)
                x = x.clone()
            task(x).backward()
            with profile.part("optimiser"):
                optimizer.step()
                optimizer.zero_grad()
    return task


def test_every_component_is_named_and_forward_and_backward_are_told_apart(tmp_path):
    run(tmp_path, steps=8, watched=3)
    result = json.loads((tmp_path / "profile.json").read_text())
    parts = result["milliseconds"]
    assert result["steps"] == 3
    assert {"stem", "projection", "position", "blocks", "head", "optimiser", "loader"} <= set(parts)
    for name in ("stem", "projection", "blocks", "head"):
        assert parts[name]["forward"] > 0
        assert parts[name]["backward"] > 0
    assert parts["optimiser"]["backward"] == parts["loader"]["backward"] == 0
    text = (tmp_path / "profile.txt").read_text()
    assert text == table(parts, 3)
    assert "stem" in text
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


def test_time_goes_to_the_component_that_spends_it(tmp_path):
    """The least time of each part in five profiles: another process only ever adds to one."""
    profiles = []
    for number in range(5):
        run(tmp_path / str(number), steps=8, watched=3)
        profiles.append(json.loads((tmp_path / str(number) / "profile.json").read_text())["milliseconds"])
    least = {
        part: min(sum(profile.get(part, {}).values()) for profile in profiles)
        for part in {part for profile in profiles for part in profile}
    }
    assert least["stem"] > 2 * least["position"]  # the wide layers cost many times the small ones
    assert least.get("other", 0) < 0.35 * sum(least.values())


def test_a_run_that_is_watched_computes_the_same(tmp_path):
    watched, alone = run(tmp_path, steps=7, watched=2), run(tmp_path / "none", steps=7, watched=0)
    for a, b in zip(watched.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not (tmp_path / "none").exists()
    assert not watched.encoder.blocks[0]._forward_hooks


def test_a_run_that_ends_early_keeps_what_was_seen(tmp_path):
    run(tmp_path, steps=5, watched=50, start=1)
    assert (tmp_path / "profile.txt").exists()
    run(tmp_path / "short", steps=2, watched=5)
    assert not (tmp_path / "short").exists()


def test_the_flag_is_short_for_a_setting():
    from speechssl.cli.training import _profiled

    assert _profiled(["--profile", "--seed", "2"]) == ["--seed", "2", "--training.profile", "5"]
    assert _profiled(["--seed", "2"]) == ["--seed", "2"]
