"""Model folders: exact, atomic, self-describing, and clear about damage."""

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from speechssl.config import EncoderConfig, FrontendConfig, ModelConfig
from speechssl.core.errors import CheckpointError
from speechssl.interop.model_folder import load_encoder, load_folder, save_model
from speechssl.models.encoder import SpeechEncoder

CFG = ModelConfig(
    normalize=True,
    frontend=FrontendConfig(conv_layers=((8, 10, 5), (12, 4, 4)), norm="layer", bias=True),
    encoder=EncoderConfig(dim=16, layers=2, heads=2, ffn_dim=32, norm="pre", pos_kernel=8, pos_groups=2),
)
LOGMEL = replace(CFG, frontend=FrontendConfig(kind="logmel", n_mels=20, stack=3))


class Labels:
    def to_dict(self):
        return {"symbols": ["-", "|", "é"], "rule": "basic"}


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return SpeechEncoder(CFG).eval()


@pytest.mark.parametrize("cfg", [CFG, LOGMEL], ids=["waveform", "logmel"])
def test_round_trip_is_exact(tmp_path, cfg):
    encoder = SpeechEncoder(cfg).eval()
    folder = tmp_path / "run" / "model"
    head = torch.randn(16, 3).T  # not contiguous: the file must still hold it
    save_model(folder, encoder=encoder, extra={"head.weight": head}, tokens=Labels(), info={"step": 3, "wer": 0.25})
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    loaded = load_folder(folder)
    assert loaded.cfg == cfg
    assert loaded.tokens == Labels().to_dict()
    assert loaded.info == {"step": 3, "wer": 0.25}
    assert torch.equal(loaded.part("head")["weight"], head)
    back = load_encoder(folder)
    assert not back.training
    state = back.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    wave = torch.randn(1, 1500)
    assert torch.equal(encoder(wave).x, back(wave).x)
    assert load_file(folder / "model.safetensors").keys() == loaded.state.keys()


def test_same_model_gives_the_same_bytes(tmp_path, encoder):
    for name in ("a", "b"):
        save_model(tmp_path / name, encoder=encoder, info={"step": 1})
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_other_dropouts_may_be_asked_for(tmp_path, encoder):
    save_model(tmp_path / "model", encoder=encoder)
    cfg = replace(CFG, encoder=replace(CFG.encoder, layer_drop=0.5))
    assert load_encoder(tmp_path / "model", cfg).cfg.encoder.layer_drop == 0.5
    with pytest.raises(CheckpointError, match="do not fit"):
        load_encoder(tmp_path / "model", replace(CFG, encoder=replace(CFG.encoder, layers=3)))


def test_saving_again_replaces_the_whole_folder(tmp_path, encoder):
    folder = tmp_path / "model"
    save_model(folder, encoder=encoder, extra={"head.weight": torch.ones(2)}, info={"step": 1})
    save_model(folder, encoder=encoder, info={"step": 2})
    loaded = load_folder(folder)
    assert loaded.info == {"step": 2}
    assert not loaded.part("head")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("damage", ["flip", "zero page", "truncate", "empty", "absent", "other model"])
def test_damaged_weights(tmp_path, encoder, damage):
    folder = tmp_path / "model"
    save_model(folder, encoder=encoder)
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-100] ^= 1
    elif damage == "zero page":
        data[-4096:] = bytes(4096)
    elif damage == "truncate":
        del data[len(data) // 2 :]
    elif damage == "empty":
        data.clear()
    elif damage == "other model":
        save_model(tmp_path / "other", encoder=SpeechEncoder(CFG))
        data[:] = (tmp_path / "other" / "model.safetensors").read_bytes()
    path.write_bytes(data)
    if damage == "absent":
        path.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: (damaged|the weights cannot be read)"):
        load_encoder(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2 of the format, but this speechssl reads version 1"),
        ({"format": "other"}, "not a speechssl model"),
        ({"model": {"normalise": True}}, "did you mean 'normalize'"),
        ({"model": {"encoder": {"dim": "wide"}}}, "model.encoder.dim: expected int"),
    ],
)
def test_wrong_config(tmp_path, encoder, change, message):
    folder = tmp_path / "model"
    save_model(folder, encoder=encoder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load_folder(folder)


def test_no_config_no_folder_not_json(tmp_path, encoder):
    with pytest.raises(CheckpointError, match="no such folder"):
        load_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_folder(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_folder(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not a speechssl model"):
        load_folder(tmp_path / "empty")
    save_model(tmp_path / "model", encoder=encoder)
    (tmp_path / "model").rename(tmp_path / "model.previous")
    with pytest.raises(CheckpointError, match="a save was cut short: rename"):
        load_folder(tmp_path / "model")


def test_weights_that_are_not_finite_are_not_published(tmp_path, encoder):
    with torch.no_grad():
        encoder.norm.bias[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"encoder\.norm\.bias holds NaN"):
        save_model(tmp_path / "model", encoder=encoder)
    assert not (tmp_path / "model").exists()


def test_info_that_json_cannot_hold_leaves_the_old_model(tmp_path, encoder):
    save_model(tmp_path / "model", encoder=encoder, info={"step": 1})
    with pytest.raises(CheckpointError, match="not JSON serializable"):
        save_model(tmp_path / "model", encoder=encoder, info={"step": torch.ones(1)})
    assert load_folder(tmp_path / "model").info == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_full_disk_leaves_the_old_model(tmp_path, encoder):
    """A real write error: the child may not write files larger than 4 KiB."""
    save_model(tmp_path / "model", encoder=encoder, info={"step": 1})
    script = """
        import resource, signal, sys
        from pathlib import Path
        from speechssl.core.errors import CheckpointError
        from speechssl.interop.model_folder import load_encoder, save_model
        folder = Path(sys.argv[1])
        encoder = load_encoder(folder)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            save_model(folder, encoder=encoder, info={"step": 2})
        except CheckpointError as error:
            sys.exit(f"refused: {error}")
    """
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "model")],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert child.returncode == 1, child.stderr
    assert "the model was not written" in child.stderr
    assert load_folder(tmp_path / "model").info == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failing_rename_puts_the_old_model_back(tmp_path, encoder, monkeypatch):
    folder = tmp_path / "model"
    save_model(folder, encoder=encoder, info={"step": 1})
    rename = type(folder).rename

    def fails(self, target):
        if self.suffix == ".tmp":
            raise OSError("no rename today")
        return rename(self, target)

    monkeypatch.setattr(type(folder), "rename", fails)
    with pytest.raises(CheckpointError, match="no rename today"):
        save_model(folder, encoder=encoder, info={"step": 2})
    assert load_folder(folder).info == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
