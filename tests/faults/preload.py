"""What the fork server of the fault tests imports once: everything that a run would import by and by."""

import importlib
import os

__all__: list[str] = []

os.environ["OMP_NUM_THREADS"] = "1"

for name in (
    *("sklearn.cluster", "torch._dynamo", "torch.utils.tensorboard", "torchaudio", "tyro", "soundfile", "jiwer"),
    *("speechssl.cli.main", "speechssl.asr.finetune", "speechssl.training.pretrain"),
):
    importlib.import_module(name)
