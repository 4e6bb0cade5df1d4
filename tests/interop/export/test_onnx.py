"""ONNX graphs: numbers of every length, padding and silence; what sherpa-onnx and onnx-asr cannot hold."""

import json

import pytest
import torch

from speechssl.asr.export import Recording, compare, ours
from speechssl.core.errors import ConfigError
from speechssl.interop.export.onnx import open_onnx, open_sherpa, write_onnx_asr, write_sherpa
from speechssl.models.kernels.choice import plain_paths
from tests.interop.export.models import encoder, folder, recogniser, waves

ITEMS = [Recording(str(i), wave, None) for i, wave in enumerate(waves())]


CONFORMER = {"block": "conformer", "relative_position": "rotary", "pos_depth": 0, "norm": "pre", "conv_kernel": 5}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stem", "sizes"), [("logmel", {"relative_position": "gated"}), ("conv2d", CONFORMER)], ids=["logmel", "conformer"]
)
def test_a_log_mel_recogniser_with_digital_silence_in_a_padded_batch(stem, sizes, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'speechssl[onnx]'")
    import onnxruntime

    model, module, tokens = recogniser(stem, **sizes)
    write_onnx_asr(tmp_path, model, module.encoder)
    found = compare(ours(module, tokens), open_onnx(tmp_path), ITEMS)  # a random head multiplies rounding

    assert found.largest < 1e-2 and found.texts == 4, found
    assert json.loads((tmp_path / "config.json").read_text())["subsampling_factor"] == 320
    assert (tmp_path / "vocab.txt").read_text(encoding="utf-8").splitlines()[:2] == ["<blk> 0", "▁ 1"]
    first, second = waves()[:2]
    batch = torch.stack([first, torch.nn.functional.pad(second, (0, len(first) - len(second)))])
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    lengths = torch.tensor([len(first), len(second)]).numpy()
    (values,) = session.run(["logprobs"], {"input_values": batch.numpy(), "input_lengths": lengths})
    alone = ours(module, tokens)(second).values
    torch.testing.assert_close(torch.from_numpy(values[1, : len(alone)]), alone, atol=1e-2, rtol=0)
    assert (values[1, len(alone) :].argmax(-1) == 0).all()


@pytest.mark.slow
def test_sherpa_reads_the_same_text(tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime", "sherpa_onnx"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'speechssl[sherpa]'")
    model, module, tokens = recogniser("large", normalize=True, norm="pre")
    write_sherpa(tmp_path, model, module.encoder)
    quiet = [Recording("quiet", 0.01 * ITEMS[1].wave, None), *ITEMS]
    found = compare(ours(module, tokens), open_sherpa(tmp_path), quiet)
    assert found.largest < 1e-2 and found.texts == 5, found


def test_the_plain_path_of_the_graph_is_the_fast_one():
    module = encoder("logmel")
    with torch.no_grad():
        for wave in waves():
            fast = module.frontend(wave[None])
            with plain_paths():
                torch.testing.assert_close(module.frontend(wave[None]), fast, atol=2e-5, rtol=0)


def test_readers_that_cannot_hold_a_model_are_named(tmp_path):
    model, module, _ = recogniser("large")
    with pytest.raises(ConfigError, match=r"mean 0 and variance 1.*model.normalize = false"):
        write_sherpa(tmp_path, model, module.encoder)
    made = encoder("large", normalize=True)
    for write, reader in ((write_sherpa, "sherpa-onnx"), (write_onnx_asr, "onnx-asr")):
        with pytest.raises(ConfigError, match=f"{reader} transcribes.*no CTC head"):
            write(tmp_path, folder(made), made)
    assert list(tmp_path.iterdir()) == []
