"""Settings of decoding: the search, its language model, how both are tuned, and how a language model is estimated."""

from dataclasses import dataclass, field
from typing import Literal

from speechssl.config.data import DataConfig

__all__ = ["DecoderConfig", "LmConfig", "TuneConfig"]


@dataclass(frozen=True)
class DecoderConfig:
    """How frame-wise log-probabilities become words."""

    kind: Literal["greedy", "beam", "lexicon", "lm"] = "greedy"
    """beam: prefix beam search over tokens. lexicon: over known words, no language model. lm: with an n-gram model."""
    beam: int = 50
    """Hypotheses kept at each frame."""
    beam_tokens: int = 20
    """Most probable tokens tried at each frame (lexicon, lm)."""
    beam_threshold: float = 30.0
    """Hypotheses further than this (in log-probability) below the best are dropped (lexicon, lm)."""
    lm: str = ""
    """ARPA file (.gz too), KenLM binary, or a folder with lm.arpa or lm.arpa.gz; empty: the model folder."""
    lexicon: str = ""
    """File with a word a line. Empty: the language model's words, else those of the training transcripts. none: no
    lexicon; the language model is then one of tokens (`speechssl lm --unit tokens`); it is detected automatically."""
    lm_weight: float = 2.0
    """Factor of the language model's log10 probabilities, as in flashlight and torchaudio."""
    word_score: float = 0.0
    """Added for each word."""
    hotwords: tuple[str, ...] = ()
    """Words to favour; also added to the lexicon."""
    hotword_score: float = 3.0
    """Added (natural logarithm) for each hotword."""
    n_best: int = 1
    """Hypotheses kept in ``hypotheses.jsonl`` for each utterance."""
    jobs: int = 1
    """Processes that decode; the result is the same."""


@dataclass(frozen=True)
class LmConfig:
    """Estimate an n-gram language model: interpolated modified Kneser-Ney, written as ARPA."""

    order: int = 3
    unit: Literal["words", "tokens"] = "words"
    """tokens: a model of the recogniser's characters or pieces, for decoding without a lexicon; needs ``model``."""
    model: str = ""
    """Model folder whose text normalisation (and tokens) to use; empty: ``normalise``."""
    normalise: Literal["none", "basic"] = "basic"
    splits: tuple[str, ...] = ("train",)
    """Splits of a manifest or of shards to read; empty for all."""
    ids: tuple[str, ...] = ()
    """Files with an utterance id a line, instead of splits."""


@dataclass(frozen=True)
class TuneConfig:
    """Choose ``lm_weight`` and ``word_score`` on a dev set."""

    model: str = ""
    """Model folder of a fine-tuning run."""
    output: str = ""
    """Where ``decoder.toml`` and ``tune.json`` go; empty for ``MODEL/../tune``."""
    data: DataConfig = field(
        default_factory=lambda: DataConfig(splits=("dev",), min_seconds=0.0, max_seconds=60.0, batch_seconds=200.0)
    )
    decoder: DecoderConfig = field(default_factory=lambda: DecoderConfig(kind="lm"))
    lm_weights: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0)
    word_scores: tuple[float, ...] = (-2.0, 0.0, 2.0, 4.0)
    refinements: int = 2
    """Times that the steps around the best point are halved."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """As that of ``evaluate``."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
