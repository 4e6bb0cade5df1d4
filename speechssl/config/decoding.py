"""Settings of decoding: the search, its language model, how both are tuned, and how a language model is estimated."""

from dataclasses import dataclass, field
from typing import Literal

from speechssl.config.data import DataConfig

__all__ = ["DecoderConfig", "LmConfig", "TuneConfig"]


@dataclass(frozen=True)
class DecoderConfig:
    """How frame-wise log-probabilities become words."""

    kind: Literal["greedy", "beam", "lexicon", "lm"] = "greedy"
    """beam: prefix beam search over tokens. lexicon: beam search over known words. lm: with an n-gram model."""
    beam: int = 50
    """Hypotheses kept at each frame."""
    beam_tokens: int = 20
    """Most probable tokens tried at each frame (lexicon, lm)."""
    beam_threshold: float = 30.0
    """Hypotheses whose log-probability is this far below the best are dropped (lexicon, lm)."""
    lm: str = ""
    """ARPA file (.gz too), KenLM binary, or a folder with lm.arpa or lm.arpa.gz. Empty: the model folder."""
    lexicon: str = ""
    """File with a word a line. Empty: the words of the language model, else those of the training transcripts. none: no
    lexicon, for a language model of tokens (``speechssl lm --unit tokens``)."""
    lm_weight: float = 2.0
    """Factor of the language model's log10 probabilities, as in flashlight and torchaudio."""
    word_score: float = 0.0
    """Added to a hypothesis for each word."""
    hotwords: tuple[str, ...] = ()
    """Words to favour; also added to the lexicon."""
    hotword_score: float = 3.0
    """Added (natural logarithm) for each hotword."""
    n_best: int = 1
    """Hypotheses kept in ``hypotheses.jsonl`` for each utterance."""
    jobs: int = 1
    """Processes that decode. The result does not depend on it."""


@dataclass(frozen=True)
class LmConfig:
    """Estimate an n-gram language model: interpolated modified Kneser-Ney, written as ARPA."""

    order: int = 3
    """Words or tokens in an n-gram."""
    unit: Literal["words", "tokens"] = "words"
    """tokens: a model of the recogniser's characters or pieces, for decoding without a lexicon; needs ``model``."""
    model: str = ""
    """Model folder whose text normalisation (and tokens) to use. Empty: ``normalise`` says it."""
    normalise: Literal["none", "basic"] = "basic"
    splits: tuple[str, ...] = ("train",)
    """Splits of a manifest or of shards to read; empty for all."""
    ids: tuple[str, ...] = ()
    """Files with an utterance id a line, used instead of splits."""


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
    """Values of ``lm_weight`` to try."""
    word_scores: tuple[float, ...] = (-2.0, 0.0, 2.0, 4.0)
    """Values of ``word_score`` to try with each."""
    refinements: int = 2
    """Finer searches around the best point, each with half the distance."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 where the processor or the GPU computes in it, else fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
