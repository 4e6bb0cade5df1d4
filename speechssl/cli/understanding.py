"""Verbs that show what a model has learned: ``features``, ``probe``, ``units``, ``layers``, ``abx``, ``understand``."""

from pathlib import Path

from speechssl.cli.arguments import configure, load
from speechssl.cli.help import usage
from speechssl.core.errors import ConfigError

__all__ = ["abx", "features", "layers", "probe", "understand", "units"]


def features(words: list[str], overrides: list[str]) -> None:
    """Write the frames of layers."""
    from speechssl.config import FeaturesConfig

    (model, place, folder), cfg = load(FeaturesConfig, "features", words, overrides, needed=3)
    from speechssl.understanding.features import write_features

    found = write_features(model, place, Path(folder), cfg)
    print(
        f"{folder}: {len(found.ids):,} utterances, layers {', '.join(map(str, found.layers))}, {found.info['dim']} wide"
    )


def probe(words: list[str], overrides: list[str]) -> None:
    """Train heads on frozen layers."""
    from speechssl.config import ProbeConfig

    (model, task), cfg = load(ProbeConfig, "probe", words, overrides, needed=2)
    from speechssl.understanding.probe import run_probe

    run_probe(model, task, cfg)
    print(Path(cfg.output, "probe.txt").read_text(encoding="utf-8"), end="")


def units(words: list[str], overrides: list[str]) -> None:
    """Cluster the frames of a layer."""
    from speechssl.config import UnitsConfig

    (model, place, folder), cfg = load(UnitsConfig, "units", words, overrides, needed=3)
    from speechssl.reports.units_page import units_text, write_units_page
    from speechssl.understanding.units import make_model_units

    found = make_model_units(model, place, Path(folder), cfg)
    print(units_text(found), end="")
    print(write_units_page(found, Path(folder)))


def layers(words: list[str], overrides: list[str]) -> None:
    """Compare layers of models."""
    from speechssl.config import LayersConfig

    cfg = configure(LayersConfig, "layers", None, overrides)
    _require_models("layers", words)
    from speechssl.reports.layers_page import write_layers
    from speechssl.understanding.layers.compare import compare_layers

    page = write_layers(compare_layers(words[:-1], words[-1], cfg), Path(cfg.output))
    print(page.with_suffix(".txt").read_text(encoding="utf-8"), end="")
    print(page)


def _require_models(verb: str, words: list[str]) -> None:
    """Refuse a command line without a model and data."""
    if len(words) < 2:
        raise ConfigError(f"usage: {usage(verb)} [--a.b value ...]   (got: {' '.join(words) or 'nothing'})")


def understand(words: list[str], overrides: list[str]) -> None:
    """Show what models have learned on one page."""
    from speechssl.config import UnderstandConfig

    cfg = configure(UnderstandConfig, "understand", None, overrides)
    _require_models("understand", words)
    from speechssl.workflows.understand import understand as go

    page = go(words[:-1], words[-1], cfg)
    print(page.with_suffix(".txt").read_text(encoding="utf-8"), end="")
    print(page)


def abx(words: list[str], overrides: list[str]) -> None:
    """Measure how well layers tell phones apart."""
    from speechssl.config import AbxConfig

    (model, place, folder), cfg = load(AbxConfig, "abx", words, overrides, needed=3)
    from speechssl.understanding.abx.run import abx_text, run_abx

    print(abx_text(run_abx(model, place, Path(folder), cfg), cfg), end="")
