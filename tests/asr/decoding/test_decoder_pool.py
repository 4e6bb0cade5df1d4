"""Decoding in several processes: the same results in the same order."""

from dataclasses import replace

import pytest

from speechssl.asr.decoding.decoder_pool import decode_all
from speechssl.asr.lm.kneser_ney import estimate
from speechssl.config import DecoderConfig
from speechssl.core.errors import ConfigError
from tests.support.spelled import peaky, tokens_of

pytest.importorskip("flashlight.lib.text", reason="flashlight-text is missing: pip install 'speechssl[decode]'")
TEXT = ["the cat sat on the mat", "the mat sat", "a cat on a mat"]


def test_several_processes_give_the_same_in_the_same_order(tmp_path):
    estimate([line.split() for line in TEXT], 3).write(tmp_path / "lm.arpa")
    tokens = tokens_of(*TEXT)
    items = [(f"u{seed}", peaky(tokens, TEXT[seed % 3], noise=5.0, seed=seed)) for seed in range(20)]
    cfg = DecoderConfig(kind="lm", n_best=3)
    alone = list(decode_all(items, cfg, tokens, model=tmp_path))
    assert [name for name, _ in alone] == [name for name, _ in items]
    assert len({decoded.text for _, decoded in alone}) > 3
    assert list(decode_all(iter(items), replace(cfg, jobs=2), tokens, model=tmp_path)) == alone


def test_bad_settings_are_an_error_before_any_process_starts(tmp_path):
    with pytest.raises(ConfigError, match="holds no language model"):
        next(decode_all([], DecoderConfig(kind="lm", jobs=2), tokens_of("a"), model=tmp_path))
