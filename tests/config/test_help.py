"""What ``--help`` lists of a configuration, and that every setting can be set whether it is listed or not."""

import re
from dataclasses import fields, is_dataclass, replace
from typing import Literal, get_args, get_origin

import pytest

from speechssl import config
from speechssl.config.help import RARE, settings, settings_lines
from speechssl.config.load import from_dict, load_config, tagged
from speechssl.workflows.demo import DemoConfig

KINDS = tagged(config.ObjectiveConfig)
ALL = {
    **{kind: replace(config.PretrainConfig(), objective=member()) for kind, member in KINDS.items()},
    **{f"run-{kind}": from_dict(config.RunConfig, {"pretrain": {"objective": {"kind": kind}}}) for kind in KINDS},
    **{
        cls.__name__: cls()
        for cls in (
            config.AbxConfig, config.AlignConfig, config.AuditConfig, config.CompareConfig,
            config.CompareObjectivesConfig,
            config.CorpusConfig, config.EvaluateConfig, config.ExportConfig, config.FinetuneConfig, config.LaunchConfig,
            config.LmConfig, config.ManifestConfig, config.ScoreConfig, config.SelftrainConfig, config.ShardConfig,
            config.TranscribeConfig, config.TuneConfig, config.UnderstandConfig, DemoConfig,
        )
    },
}  # fmt: skip
"""The configuration of every verb; those of pretraining and of the whole way with each objective."""


def changed(setting):
    """Return another value for a setting."""
    kind, value = setting.kind, setting.value
    if kind is bool:
        return not value
    if get_origin(kind) is Literal:
        return next(each for each in get_args(kind) if each != value)
    if value is None:
        return (1.5, 2.5)
    if type(None) in get_args(kind):
        (kind,) = set(get_args(kind)) - {type(None)}
    if isinstance(value, tuple):
        first = get_args(kind)[0]
        if get_origin(first) is tuple:
            return ((7,) * len(get_args(first)),)
        if get_origin(first) is Literal:
            return get_args(first)[-2:]
        return tuple(
            {str: f"{setting.path}={i + 1}", int: i + 1, float: i + 0.5}[first] for i in range(len(value) or 2)
        )
    return f"{value}x" if kind is str else value * 0.9 if kind is float else value + 2


def flat(value):
    return [part for item in value for part in flat(item)] if isinstance(value, tuple) else [value]


def words(path, value):
    option = f"--{path}".replace("_", "-")
    if isinstance(value, bool):
        table, dot, name = option.removeprefix("--").rpartition(".")
        return [option] if value else [f"--{table}{dot}no-{name}"]
    return [option, *map(str, flat(value))]


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_setting_can_be_set_on_the_command_line_whether_help_shows_it_or_not(name):
    cfg = ALL[name]
    kinds = {item.path: item.value for item in settings(cfg) if re.search(r"objective\..*kind$", item.path)}
    values = {item.path: changed(item) for item in settings(cfg)} | kinds
    given = [word for path, value in values.items() for word in words(path, value)]
    assert {item.path: item.value for item in settings(load_config(type(cfg), None, given))} == values


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_rare_setting_is_listed_on_request_and_any_other_always(name):
    cfg = ALL[name]
    listed = {everything: "\n".join(settings_lines(cfg, 80, everything=everything)) for everything in (False, True)}
    for item in settings(cfg):
        table, dot, last = item.path.replace("_", "-").rpartition(".")
        option = f"\n  --{table}{dot}[no-]{last}" if item.kind is bool else f"\n  --{table}{dot}{last} "
        assert option in listed[True]
        assert (option in listed[False]) == (not item.rare)


def test_an_inherited_setting_keeps_its_help_text():
    docs = {item.path: item.doc for item in settings(ALL["hubert"])}
    assert docs["objective.logit_temperature"] == "Divisor of the cosine similarities."


def classes(cfg):
    """Yield the names of the classes of a configuration and of its tables."""
    yield type(cfg).__name__
    for item in fields(cfg):
        if is_dataclass(value := getattr(cfg, item.name)):
            yield from classes(value)


def test_what_is_named_rare_exists():
    """With a pattern less, another list is shown: none is left of a setting that is gone."""
    rare = {name: sum(item.rare for item in settings(cfg)) for name, cfg in ALL.items()}
    holds = {name: set(classes(cfg)) for name, cfg in ALL.items()}
    for cls, patterns in list(RARE.items()):
        for pattern in patterns.split():
            RARE[cls] = " ".join(each for each in patterns.split() if each != pattern)
            try:
                differs = any(
                    sum(item.rare for item in settings(cfg)) != rare[name]
                    for name, cfg in ALL.items()
                    if cls in holds[name]
                )
            finally:
                RARE[cls] = patterns
            assert differs, f"{cls}: {pattern}"


def test_of_the_objectives_the_chosen_one_is_listed_and_the_others_are_named():
    for kind, cfg in ALL.items():
        if kind in KINDS:
            lines = settings_lines(cfg, 400, everything=True)
            assert f"  --objective.kind {{{', '.join(KINDS)}}} [{kind}]" in lines
    assert "--objective.targets.clusters" in "\n".join(settings_lines(ALL["hubert"], 80, everything=True))
    assert "--objective.targets.clusters" not in "\n".join(settings_lines(ALL["wav2vec2"], 80, everything=True))


def test_a_setting_is_shown_with_its_type_its_value_and_its_docstring():
    data = {"optim": {"lr": 0.25}, "training": {"compile": True}, "data": {"splits": ["a", "b"]}}
    lines = settings_lines(from_dict(config.PretrainConfig, data), 60, everything=True)
    assert "  --optim.lr FLOAT [0.25]  Peak learning rate." in lines
    assert "  --training.[no-]compile [yes]  Compile the model with" in lines
    assert "  --data.splits STR ... [a b]  Splits of the shards to use." in lines
    assert "  --data.loader {threads,processes} [threads]  processes:" in lines
    assert "  --name STR [pretrain]" in lines
    assert all(len(line) <= 60 for line in lines if not line.startswith("  --"))
