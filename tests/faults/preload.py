"""What the fork server of the fault tests imports once: everything that a run would import by and by."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import sklearn.cluster
import torch._dynamo  # AdamW imports it
import torch.utils.tensorboard
import torchaudio
import tyro

import speechssl.asr.finetune
import speechssl.cli
import speechssl.training.pretrain  # noqa: F401
