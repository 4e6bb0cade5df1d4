"""Tuning: the best of the grid and around it, the same each time, and what it writes is what evaluate reads."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from speechssl.asr.ctc import CtcModel
from speechssl.asr.decoding.tune import Point, search_weights, tune
from speechssl.asr.evaluate import evaluate
from speechssl.asr.tokens import Tokens
from speechssl.config import DataConfig, DecoderConfig, EvaluateConfig, LmConfig, TokensConfig, TuneConfig
from speechssl.config.load import read_toml
from speechssl.core.errors import ConfigError, DataError
from speechssl.evaluation.wer.hypotheses import read_hypotheses
from speechssl.interop.model_folder import save_model
from speechssl.models.encoder import SpeechEncoder
from tests.support.tones import MODEL, write_shards


class Bowl:
    """Errors that grow with the distance from a point; counts how often each setting was tried."""

    def __init__(self, weight: float, score: float) -> None:
        self.middle, self.tried = (weight, score), []

    def __call__(self, points):
        self.tried += points
        return [Point(w, s, int(100 * (abs(w - self.middle[0]) + abs(s - self.middle[1]))), 0, 0.0) for w, s in points]


def test_the_grid_is_refined_around_its_best():
    bowl = Bowl(2.25, 0.5)
    cfg = TuneConfig(lm_weights=(0.0, 1.0, 2.0, 3.0), word_scores=(2.0, -2.0, 0.0), refinements=2)
    points, warnings = search_weights(bowl, cfg)
    assert (points[0].lm_weight, points[0].word_score) == (2.25, 0.5)
    assert warnings == []
    assert len(bowl.tried) == len(set(bowl.tried))
    assert points == sorted(points, key=lambda point: point.rank)
    assert search_weights(Bowl(2.25, 0.5), cfg) == (points, warnings)


def test_the_edge_of_the_grid_is_said():
    cfg = TuneConfig(lm_weights=(1.0, 2.0), word_scores=(0.0, 1.0), refinements=0)
    _, warnings = search_weights(Bowl(9.0, -9.0), cfg)
    assert len(warnings) == 2
    assert "--lm-weights" in warnings[0]
    assert "--word-scores" in warnings[1]
    _, warnings = search_weights(Bowl(2.0, 0.5), replace(cfg, refinements=1))
    assert warnings == []  # a half step further was tried and was worse
    _, warnings = search_weights(Bowl(0.0, 0.5), replace(cfg, lm_weights=(0.0, 1.0), word_scores=(0.0, 0.5, 1.0)))
    assert warnings == []  # no language model at all is no edge
    with pytest.raises(ConfigError, match="at least one of lm_weights"):
        search_weights(Bowl(0, 0), TuneConfig(lm_weights=()))


def test_equal_points_go_to_the_smaller_weights():
    points, _ = search_weights(
        lambda points: [Point(w, s, 7, 3, 0.1) for w, s in points],
        TuneConfig(lm_weights=(2.0, 1.0), word_scores=(-1.0, 1.0, 0.0), refinements=1),
    )
    assert (points[0].lm_weight, points[0].word_score) == (0.5, 0.0)


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> TuneConfig:
    pytest.importorskip("flashlight.lib.text", reason="flashlight-text is missing: pip install 'speechssl[decode]'")
    from speechssl.asr.lm.text import estimate_lm

    place = tmp_path_factory.mktemp("tune")
    shards = write_shards(place, {"train": 30, "dev": 12})
    torch.manual_seed(3)  # a model of random weights babbles: every kind of error, without training
    tokens, _ = Tokens.build(["abcde"], TokensConfig())
    made = CtcModel(SpeechEncoder(MODEL), tokens.size)
    torch.nn.init.normal_(made.head.weight, std=1.0)
    head = {f"head.{name}": value for name, value in made.head.state_dict().items()}
    save_model(place / "model", encoder=made.encoder, extra=head, tokens=tokens)
    estimate_lm(shards, place / "lm.arpa", LmConfig(order=2))
    data = DataConfig(shards=str(shards), splits=("dev",), min_seconds=0.0, max_seconds=5.0, batch_seconds=20.0)
    decoder = DecoderConfig(kind="lm", lm=str(place / "lm.arpa"), beam=20)
    return TuneConfig(
        model=str(place / "model"), output=str(place / "out"), data=data, decoder=decoder, device="cpu",
        lm_weights=(0.0, 1.0, 8.0), word_scores=(-1.0, 1.0), refinements=1,
    )  # fmt: skip


def test_evaluate_with_the_chosen_settings_gives_the_error_rate_that_was_promised(settings):
    choice = tune(settings)
    assert choice.best == choice.points[0]
    assert choice.best.wer < max(point.wer for point in choice.points)
    cfg = read_toml(EvaluateConfig, choice.settings)
    assert (cfg.decoder.lm_weight, cfg.decoder.word_score) == (choice.best.lm_weight, choice.best.word_score)
    report = evaluate(replace(cfg, data=settings.data, output=settings.output + "/dev", bootstrap=20, device="cpu"))
    assert choice.best.errors == report.S + report.D + report.I
    assert report.wer == pytest.approx(choice.best.wer)
    rows = read_hypotheses(Path(settings.output) / "dev")
    greedy = sum(len(row["ref"].split()) for row in rows)
    document = json.loads((Path(settings.output) / "tune.json").read_text())
    assert document["words"] == greedy == report.N
    assert len(document["points"]) == len(choice.points) > 6
    text = str(choice)
    assert "speechssl evaluate" in text
    assert "greedy" in text
    again = tune(replace(settings, decoder=replace(settings.decoder, jobs=2), output=settings.output + "2"))
    assert again.points == choice.points


def test_what_cannot_be_tuned(settings, tmp_path):
    with pytest.raises(ConfigError, match="--model"):
        tune(replace(settings, model=""))
    with pytest.raises(ConfigError, match="no weights to tune"):
        tune(replace(settings, decoder=DecoderConfig(kind="beam")))
    with pytest.raises(ConfigError, match="without hotwords"):
        tune(replace(settings, decoder=replace(settings.decoder, hotwords=("a",))))
    with pytest.raises(DataError, match="no dev utterance"):
        tune(replace(settings, output=str(tmp_path), data=replace(settings.data, splits=("nowhere",))))
