"""Settings in and out: TOML files and presets -> frozen dataclasses -> ``--a.b value`` overrides -> resolved TOML.

Strict: an unknown key is an error that names the nearest match; a wrong type is an error that names the key.
"""

import difflib
import json
import math
import tomllib
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from speechssl.core.errors import ConfigError
from speechssl.core.files import write_atomic
from speechssl.core.presets import find_config

__all__ = [
    "from_dict",
    "initial_config",
    "load_config",
    "read_toml",
    "tagged",
    "take",
    "to_dict",
    "to_toml",
    "toml_lines",
    "write_toml",
]

T = TypeVar("T")


def _convert(value: Any, kind: Any, where: str, base: Any = None) -> Any:
    """Return ``value`` as the annotated type ``kind``, or raise ConfigError naming the key.

    ``base`` has the fields that a table does not name.
    """
    origin, args = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a table, got {value!r}")
        return from_dict(kind, value, where=where, base=base)
    if members := tagged(kind):
        if not isinstance(value, dict) or "kind" not in value:
            raise ConfigError(f"{where}: expected a table with kind = {' or '.join(map(json.dumps, members))}")
        member = members[_convert(value["kind"], Literal[tuple(members)], f"{where}.kind")]
        return from_dict(member, value, where=where, base=base if isinstance(base, member) else None)
    if origin is Literal:
        if value in args:
            return value
        close = difflib.get_close_matches(str(value), [str(arg) for arg in args], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}{hint}")
    if origin in (typing.Union, types.UnionType):
        if value is None or value == "none":
            return None
        return _convert(value, next(arg for arg in args if arg is not type(None)), where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(inner) != len(value):
            raise ConfigError(f"{where}: expected {len(inner)} items, got {len(value)}")
        return tuple(
            _convert(item, each, f"{where}[{i}]") for i, (item, each) in enumerate(zip(value, inner, strict=True))
        )
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        _refuse_nan(float(value), where)
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    raise ConfigError(f"{where}: expected {getattr(kind, '__name__', kind)}, got {value!r}")


def _refuse_nan(value: Any, where: str) -> None:
    """Raise ConfigError for a NaN anywhere in a value: it would make every comparison false, in silence."""
    if isinstance(value, float) and math.isnan(value):
        raise ConfigError(f"{where}: nan is not allowed; give a number, or leave the setting out")
    if is_dataclass(value):
        for item in fields(value):
            _refuse_nan(getattr(value, item.name), f"{where}.{item.name}" if where else item.name)
    elif isinstance(value, tuple):
        for item in value:
            _refuse_nan(item, where)


def tagged(kind: Any) -> dict[str, Any]:
    """Return the dataclasses of a union by their ``kind``; empty for every other type."""
    args = get_args(kind) if get_origin(kind) in (typing.Union, types.UnionType) else ()
    members = [arg for arg in args if is_dataclass(arg)]
    return {str(next(item.default for item in fields(arg) if item.name == "kind")): arg for arg in members}


def from_dict(cls: type[T], data: dict[str, Any], *, where: str = "", base: T | None = None) -> T:
    """Build the dataclass ``cls`` from nested dictionaries.

    A table changes only the keys that it names: the others are those of ``base``, or of the defaults of their place,
    which may differ from those of the table's class.

    Raises ConfigError when a key is unknown (the message names the nearest match) or a value has the wrong type.
    """
    check = getattr(cls, "check_form", None)
    if check is not None:
        check(data, where)
    hints = typing.get_type_hints(cls)
    known = {item.name: item for item in fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in data.items():
        path = f"{where}.{name}" if where else name
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(known)}"
            raise ConfigError(f"unknown key {path!r}{hint}")
        factory = known[name].default_factory
        if base is not None:
            default = getattr(base, name)
        else:
            default = factory() if isinstance(value, dict) and factory is not MISSING else None
        values[name] = _convert(value, hints[name], path, default)
    return cls(**values) if base is None else replace(base, **values)  # type: ignore[type-var]


def to_dict(cfg: Any) -> dict[str, Any]:
    """Return a configuration as nested dictionaries of plain values."""
    return asdict(cfg)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    if value is None:
        return '"none"'
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def to_toml(cfg: Any) -> str:
    """Return a configuration as TOML text; ``from_dict(type(cfg), tomllib.loads(text)) == cfg``."""
    return "\n".join(toml_lines(asdict(cfg))) + "\n"


def toml_lines(data: dict[str, Any], prefix: str = "") -> list[str]:
    """Return nested dictionaries as lines of TOML; ``prefix`` stands before the names of tables."""
    lines = [f"{name} = {_value(value)}" for name, value in data.items() if not isinstance(value, dict)]
    for name, value in data.items():
        if isinstance(value, dict):
            lines += ["", f"[{prefix}{name}]", *toml_lines(value, f"{prefix}{name}.")]
    return lines


def write_toml(cfg: Any, path: Path) -> None:
    """Write the resolved configuration, atomically."""
    write_atomic(path, to_toml(cfg))


def read_toml(cls: type[T], path: Path) -> T:
    """Read one TOML file into ``cls``; errors name the file."""
    try:
        with path.open("rb") as file:
            return from_dict(cls, tomllib.load(file))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def load_config(cls: type[T], name: str | None = None, overrides: Sequence[str] = (), *, prog: str = "speechssl") -> T:
    """Read a TOML file or preset (or, without a name, the defaults), then apply ``--a.b value`` overrides.

    Overrides are arguments such as ``["--optim.lr", "1e-3", "--data.batch-seconds=40"]``.

    Raises ConfigError when the file, a key or a value cannot be used.
    """
    base, words = initial_config(cls, name, overrides)
    import tyro  # after the file is read, so that a bad file is reported without waiting for it

    # tyro prints its own message, with the nearest match, and leaves with code 2.
    cfg = tyro.cli(cls, args=words, default=base, prog=prog, config=(tyro.conf.AvoidSubcommands,))
    _refuse_nan(cfg, "")
    return cfg


def initial_config(cls: type[T], name: str | None, overrides: Sequence[str]) -> tuple[T, list[str]]:
    """Return the configuration of a file or preset (or the defaults) with the kinds that the overrides choose.

    The overrides that are left are returned beside it. Errors are those of :func:`load_config`.
    """
    return _choose(read_toml(cls, find_config(name)) if name else cls(), list(overrides))


def _choose(base: Any, words: list[str], prefix: str = "") -> tuple[Any, list[str]]:
    """Apply ``--a.kind NAME`` to the tagged unions of a configuration; return it and the words that are left.

    Another kind starts from its own defaults: fields of one kind mean nothing in another.
    """
    check = getattr(base, "check_overrides", None)
    if check is not None:
        check(words, prefix)
    hints = typing.get_type_hints(type(base))
    for item in fields(base):
        value, path = getattr(base, item.name), f"{prefix}{item.name}"
        if tagged(hints[item.name]):
            kind, words = take(f"--{path}.kind", words)
            if kind not in (None, value.kind):
                value = _convert({"kind": kind}, hints[item.name], path)
        if is_dataclass(value):
            value, words = _choose(value, words, f"{path}.")
        base = replace(base, **{item.name: value})
    return base, words


def take(name: str, words: list[str]) -> tuple[str | None, list[str]]:
    """Return the value of an option, None without it, and the other words; the last of several values counts."""
    value, left = None, []
    rest = iter(words)
    for word in rest:
        if word == name:
            value = next(rest, "")
        elif word.startswith(f"{name}="):
            value = word.partition("=")[2]
        else:
            left.append(word)
    return value, left
