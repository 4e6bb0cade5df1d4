"""Words of a command line: ``POSITIONAL... [CONFIG] [--a.b value ...]`` as every verb takes them.

In: the words after the verb. Out: checked positional arguments and a configuration. Errors are a ``ConfigError``.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from speechssl.cli.help import usage, verb_help
from speechssl.core.errors import ConfigError

__all__ = ["Verb", "configure", "load", "positional", "split", "wants_help"]

T = TypeVar("T")

Verb = Callable[[list[str], list[str]], int | None]
"""(positional words, overrides) -> exit code; None is 0."""


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (positional arguments, overrides): positionals come first, the first ``--`` word starts the overrides."""
    for i, word in enumerate(arguments):
        if word.startswith("-") and word != "-":  # a lone dash is standard input
            return list(arguments[:i]), list(arguments[i:])
    return list(arguments), []


def positional(words: list[str], verb: str, needed: int, *, optional: int = 0) -> list[str | None]:
    """Return the positional arguments, None for each optional one that is missing; a wrong number is an error."""
    if not needed <= len(words) <= needed + optional:
        raise ConfigError(f"usage: {usage(verb)} [--a.b value ...]   (got: {' '.join(words) or 'nothing'})")
    return [*words, *[None] * (needed + optional - len(words))]


def wants_help(overrides: list[str]) -> bool:
    """Return whether ``-h``, ``--help`` or ``--help-all`` is given."""
    return not {"-h", "--help", "--help-all"}.isdisjoint(overrides)


def configure(cls: type[T], verb: str, name: str | None, overrides: list[str]) -> T:
    """Return the configuration of a verb; ``--help`` and ``--help-all`` print the help of the verb and exit."""
    from speechssl.config.load import initial_config, load_config

    if wants_help(overrides):
        base, _ = initial_config(cls, name, overrides)
        print(verb_help(verb, base, everything="--help-all" in overrides), end="", flush=True)
        raise SystemExit(0)
    return load_config(cls, name, overrides, prog=f"speechssl {verb}")


def load(cls: type[T], verb: str, words: list[str], overrides: list[str], needed: int = 0) -> tuple[list[str], T]:
    """Return (``needed`` positionals, configuration) of a verb whose last positional is an optional CONFIG."""
    if wants_help(overrides) and len(words) != needed + 1:
        words = [""] * needed  # help needs no other argument than CONFIG
    given = positional(words, verb, needed, optional=1)
    cfg = configure(cls, verb, given[-1], overrides)
    return [str(word) for word in given[:-1]], cfg
