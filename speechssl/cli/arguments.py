"""Words of a command line: ``POSITIONAL... [CONFIG] [--a.b value ...]`` as every verb takes them.

In: the words after the verb. Out: checked positional arguments and a configuration. Errors are a ``ConfigError``.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from speechssl.core.errors import ConfigError

__all__ = ["Verb", "load", "positional", "split", "wants_help"]

T = TypeVar("T")

Verb = Callable[[list[str], list[str]], int | None]
"""(positional words, overrides) -> exit code; None is 0."""


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (positional arguments, overrides): positionals come first, the first ``--`` word starts the overrides."""
    for i, word in enumerate(arguments):
        if word.startswith("-") and word != "-":  # a lone dash is standard input
            return list(arguments[:i]), list(arguments[i:])
    return list(arguments), []


def positional(words: list[str], names: Sequence[str], verb: str, *, optional: int = 0) -> list[str | None]:
    """Check the number of positional arguments; missing optional ones are None."""
    if not len(names) - optional <= len(words) <= len(names):
        wanted = " ".join(f"[{n}]" if i >= len(names) - optional else n for i, n in enumerate(names))
        raise ConfigError(f"usage: speechssl {verb} {wanted} [--a.b value ...]   (got: {' '.join(words) or 'nothing'})")
    return [*words, *[None] * (len(names) - len(words))]


def wants_help(overrides: list[str]) -> bool:
    """Return whether ``--help`` or ``-h`` is given."""
    return "--help" in overrides or "-h" in overrides


def load(cls: type[T], verb: str, words: list[str], overrides: list[str], names: Sequence[str]) -> tuple[list[str], T]:
    """Return (required positionals, configuration) of a verb whose last positional is an optional CONFIG."""
    from speechssl.config.load import load_config

    if wants_help(overrides):
        words = words if len(words) == len(names) + 1 else [*names]  # the listing needs no real arguments
    given = positional(words, [*names, "CONFIG"], verb, optional=1)
    cfg = load_config(cls, given[-1], overrides, prog=f"speechssl {verb} {' '.join([*names, '[CONFIG]'])}")
    return [str(word) for word in given[:-1]], cfg
