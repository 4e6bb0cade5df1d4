"""Settings: strict TOML, nearest match, overrides, presets, round trip."""

import tomllib
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl import config
from speechssl.config.load import from_dict, load_config, read_toml, tagged, to_toml, write_toml
from speechssl.config.old_form import in_new_form
from speechssl.core.errors import ConfigError
from speechssl.core.presets import find_config, presets

CLASSES = [
    config.ManifestConfig,
    config.ShardConfig,
    config.PretrainConfig,
    config.FinetuneConfig,
    config.EvaluateConfig,
    config.TranscribeConfig,
    config.RunConfig,
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_defaults_survive_the_round_trip(cls):
    assert from_dict(cls, tomllib.loads(to_toml(cls()))) == cls()


@given(
    lr=st.floats(1e-9, 1e3),
    name=st.text(max_size=30).filter(lambda text: text.isprintable()),
    speeds=st.lists(st.floats(0.5, 2), max_size=4),
    snr=st.none() | st.tuples(st.floats(-5, 5), st.floats(6, 40)),
)
def test_any_values_survive_the_round_trip(lr, name, speeds, snr):
    base = config.FinetuneConfig()
    cfg = replace(
        base,
        name=name,
        optim=replace(base.optim, lr=lr),
        augment=config.AugmentConfig(speeds=tuple(speeds), noise_snr_db=snr),
    )
    assert from_dict(config.FinetuneConfig, tomllib.loads(to_toml(cfg))) == cfg


def test_nested_table_keeps_the_defaults_of_its_place():
    cfg = from_dict(config.FinetuneConfig, {"optim": {"lr": 1}})
    assert cfg.optim.lr == 1.0
    assert cfg.optim.schedule == "tri-stage"  # OptimConfig alone would say polynomial


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"optim": {"lrr": 1}}, "unknown key 'optim.lrr'; did you mean 'lr'"),
        ({"zzzzzz": 1}, "unknown key 'zzzzzz'; known keys: name"),
        ({"objective": {"kind": "huber"}}, "did you mean 'hubert'"),
        ({"objective": {"kind": "qqq"}}, "objective.kind: 'qqq' is not one of 'wav2vec2', 'hubert'"),
        ({"objective": {"entries": 9}}, 'objective: expected a table with kind = "wav2vec2" or "hubert"'),
        ({"objective": {"kind": "hubert", "entries": 9}}, "unknown key 'objective.entries'"),
        ({"optim": {"lr": "fast"}}, "optim.lr: expected float, got 'fast'"),
        ({"optim": {"betas": [0.9]}}, "optim.betas: expected 2 items, got 1"),
        ({"optim": 3}, "optim: expected a table"),
        ({"seed": True}, "seed: expected int, got True"),
        ({"objective": {"kind": "hubert", "targets": {"steps": 5}}}, "objective.targets.steps: expected a list"),
    ],
)
def test_wrong_settings_are_named(data, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(config.PretrainConfig, data)


OLD = {
    "objective": "hubert",
    "mask": {"prob": 0.5},
    "hubert": {"steps": [3], "final_dim": 4},
    "wav2vec2": {"entries": 7},
    "teacher": {"layer": 9},
    "optim": {"lr": 1.0},
}
NEW = """\
[objective]
kind = "hubert"
final_dim = 4

[objective.mask]
prob = 0.5

[objective.targets]
steps = [3]

[objective.targets.teacher]
layer = 9
"""


def test_the_old_form_of_an_objective_is_refused_and_the_new_one_shown():
    assert in_new_form(OLD) == tomllib.loads(NEW) | {"optim": {"lr": 1.0}}
    for data in (OLD, {"mask": {"length": 4}}, {"units": "file.npz", "objective": {"kind": "hubert"}}):
        new = from_dict(config.PretrainConfig, in_new_form(data))
        assert from_dict(config.PretrainConfig, in_new_form(tomllib.loads(to_toml(new)))) == new
        with pytest.raises(ConfigError, match="cannot be resumed"):
            from_dict(config.PretrainConfig, data)
    with pytest.raises(ConfigError) as caught:
        from_dict(config.PretrainConfig, OLD)
    assert NEW in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        from_dict(config.RunConfig, {"pretrain": OLD})
    assert NEW.replace("[objective", "[pretrain.objective") in str(caught.value)


@pytest.mark.parametrize(
    ("word", "new"),
    [
        ("--pretrain.objective", "--pretrain.objective.kind"),
        ("--pretrain.mask.prob=0.5", "--pretrain.objective.mask.prob"),
        ("--pretrain.hubert.kmeans-hours", "--pretrain.objective.targets.kmeans-hours"),
        ("--pretrain.hubert.final-dim", "--pretrain.objective.final-dim"),
        ("--pretrain.wav2vec2.entries", "--pretrain.objective.entries"),
        ("--pretrain.teacher.model", "--pretrain.objective.targets.teacher.model"),
        ("--pretrain.units-hop", "--pretrain.objective.targets.units-hop"),
    ],
)
def test_the_old_form_of_an_option_names_the_new_one(word, new):
    with pytest.raises(ConfigError, match=f"this setting is {new} now"):
        load_config(config.RunConfig, None, [word, "1"])


def test_the_kind_of_an_objective_is_chosen_on_the_command_line():
    words = ["--pretrain.objective.kind", "hubert", "--pretrain.objective.targets.clusters", "9"]
    preset = read_toml(config.RunConfig, find_config("run-tiny")).pretrain.objective
    cfg = load_config(config.RunConfig, "run-tiny", words)  # the kind it has: its other settings stay
    assert cfg.pretrain.objective == replace(preset, targets=replace(preset.targets, clusters=(9,)))
    cfg = load_config(config.RunConfig, "run-tiny", ["--pretrain.objective.kind=wav2vec2"])
    assert cfg.pretrain.objective == config.Wav2Vec2Config()
    assert "targets" not in to_toml(cfg.pretrain)
    with pytest.raises(ConfigError, match=r"pretrain\.objective\.kind: 'huber' is not one of"):
        load_config(config.RunConfig, None, ["--pretrain.objective.kind", "huber"])


@pytest.mark.parametrize("kind", tagged(config.ObjectiveConfig))
def test_a_resolved_configuration_holds_the_settings_of_the_chosen_objective_only(kind):
    own = {item.name for item in fields(tagged(config.ObjectiveConfig)[kind])}
    pretraining = load_config(config.PretrainConfig, None, ["--objective.kind", kind])
    whole = load_config(config.RunConfig, None, ["--pretrain.objective.kind", kind])
    for resolved in (tomllib.loads(to_toml(pretraining)), tomllib.loads(to_toml(whole))["pretrain"]):
        assert resolved.keys() == {item.name for item in fields(config.PretrainConfig)}
        assert resolved["objective"].keys() == own
        assert resolved["objective"]["kind"] == kind
    assert "objective" not in to_toml(config.FinetuneConfig())


def test_file_errors_name_the_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("optim = [", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.toml: not valid TOML"):
        read_toml(config.PretrainConfig, path)
    path.write_text("[optim]\nwarmpu = 1", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.toml: unknown key 'optim\.warmpu'; did you mean 'warmup'"):
        read_toml(config.PretrainConfig, path)


def test_presets_are_found_by_name_and_near_misses_are_suggested():
    assert "wav2vec2-base" in presets()
    assert find_config("wav2vec2-base") == find_config("wav2vec2-base.toml")
    with pytest.raises(ConfigError, match="did you mean 'wav2vec2-base'"):
        find_config("wav2vec-base")
    with pytest.raises(ConfigError, match="presets: "):
        find_config("0")


def test_overrides_lie_over_the_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[optim]\nlr = 0.25\n[data]\nbatch_seconds = 7.5", encoding="utf-8")
    cfg = load_config(config.PretrainConfig, str(path), ["--optim.lr", "0.5", "--objective.entries", "10"])
    assert (cfg.optim.lr, cfg.data.batch_seconds, cfg.objective.entries) == (0.5, 7.5, 10)


def test_unknown_override_leaves_with_the_nearest_match(capsys):
    with pytest.raises(SystemExit) as stop:
        load_config(config.PretrainConfig, None, ["--optim.lrr", "0.5"])
    assert stop.value.code == 2
    assert "--optim.lr" in "".join(capsys.readouterr())


def test_write_leaves_no_temporary(tmp_path):
    write_toml(config.ShardConfig(seed=9), tmp_path / "new" / "config.toml")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["config.toml"]
    assert read_toml(config.ShardConfig, tmp_path / "new" / "config.toml").seed == 9


def test_nan_is_no_setting_wherever_it_comes_from(tmp_path):
    with pytest.raises(ConfigError, match=r"decoder\.lm_weight: nan is not allowed"):
        load_config(config.EvaluateConfig, None, ["--decoder.lm-weight", "nan"])
    with pytest.raises(ConfigError, match=r"lm_weights: nan"):
        load_config(config.TuneConfig, None, ["--lm-weights", "1", "nan"])
    path = tmp_path / "a.toml"
    path.write_text("[decoder]\nlm_weight = nan\n")
    with pytest.raises(ConfigError, match=r"decoder\.lm_weight: nan"):
        load_config(config.EvaluateConfig, str(path), [])
