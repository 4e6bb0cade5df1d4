"""The fairseq2 contender of benchmarks/step.py, for an interpreter of its own: its binary half wants one torch only.

fairseq2n 0.8.1 on PyPI is built for torch 2.9.1 with CUDA 12.8 and refuses every other version, so it cannot live
beside torch 2.11. Make an environment for it and name its interpreter:

    python -m venv FS2 && FS2/bin/pip install fairseq2==0.8.1
    python -m benchmarks.step --set wav2vec2 --fairseq2-python FS2/bin/python

usage (by step.py): FS2/bin/python -m benchmarks.fairseq2_step ROWS SAMPLES bf16|fp32 base|small

The model is fairseq2's wav2vec 2.0 ("base"), its loss the model's own; masks with the paper's probability 0.65 instead
of its 0.69, and dropouts, negatives and layer drop are the paper's by default. AdamW is torch's.
"""

import sys

import torch
from fairseq2.models.wav2vec2 import Wav2Vec2Config, create_wav2vec2_model
from fairseq2.nn import BatchLayout

from benchmarks.rounds import serve

torch.set_num_threads(1)


def main(rows: int, samples: int, precision: str, size: str) -> None:
    cfg = Wav2Vec2Config(max_temporal_mask_prob=0.65)
    cfg.encoder_config.first_pass_dropout_p = 0.1
    if size == "small":
        cfg.encoder_config.model_dim = 256
        cfg.encoder_config.ffn_inner_dim = 1024
        cfg.encoder_config.num_encoder_attn_heads = 4
    model = create_wav2vec2_model(cfg).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    wave = 0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(1))
    layout = BatchLayout.of(wave)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss, output = model(wave, layout)
        (loss.aggregate / output.num_targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    serve(step, settle=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
