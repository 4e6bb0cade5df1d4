"""Decoding in several processes: each has a decoder of its own, results come in the order of the utterances.

In: pairs of any item and log-probabilities. Out: the same items, each with its `Decoded`, for any number of jobs.
"""

import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speechssl.asr.decoding.decoders import Decoded, Decoder, build_decoder
from speechssl.asr.tokens import Tokens
from speechssl.config import DecoderConfig

__all__ = ["decode_all"]

T = TypeVar("T")

AHEAD = 8
"""Utterances queued for each process: enough to keep it busy, few enough for memory."""


def decode_all(
    items: Iterable[tuple[T, Tensor]], cfg: DecoderConfig, tokens: Tokens, *, model: Path | None = None
) -> Iterator[tuple[T, Decoded]]:
    """Yield each item with what its ``[F, V]`` log-probabilities decode to, in order.

    With ``cfg.jobs`` above 1 the decoders are built in that many processes (from the same settings and files).

    Raises ConfigError or DataError as `build_decoder`, and DataError when log-probabilities are not a number.
    """
    decode = build_decoder(cfg, tokens, model=model)
    if cfg.jobs == 1:
        for item, log_probs in items:
            yield item, decode(log_probs)
        return
    todo = iter(items)
    with ProcessPoolExecutor(
        cfg.jobs,
        mp_context=multiprocessing.get_context("spawn"),  # threads of the loader and of torch do not survive a fork
        initializer=_start,
        initargs=(cfg, tokens, model),
    ) as pool:
        while part := list(islice(todo, AHEAD * cfg.jobs)):
            found = pool.map(_decode, [log_probs.numpy() for _, log_probs in part])
            for (item, _), decoded in zip(part, found, strict=True):
                yield item, decoded


_worker: dict[str, Any] = {}


def _start(cfg: DecoderConfig, tokens: Tokens, model: Path | None) -> None:
    torch.set_num_threads(1)
    _worker["decode"] = build_decoder(cfg, tokens, model=model)


def _decode(log_probs: npt.NDArray[np.float32]) -> Decoded:
    decode: Decoder = _worker["decode"]
    return decode(torch.from_numpy(log_probs))
