"""The settings of a configuration as text for a terminal: what ``--help`` and ``--help-all`` list.

In: a configuration, whose values are shown. Out: for each setting its option, type, value and docstring.
"""

import ast
import inspect
import textwrap
import typing
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from fnmatch import fnmatchcase
from functools import cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args, get_origin

from speechssl.config.load import tagged

__all__ = ["RARE", "Setting", "settings", "settings_lines"]

RARE = {
    "DataConfig": "cache cache_gb mix noise reverb buckets window_shards loader timeout max_bad_fraction",
    "ModelConfig": """
        normalize frontend.conv_layers frontend.norm frontend.bias frontend.conv2d frontend.statistics
        frontend.grad_scale""",
    "EncoderConfig": """block conv_kernel conv_norm pos_kernel pos_groups pos_depth relative_position
        activation_dropout causal""",
    "MaskConfig": "min_spans",
    "MaskedReconstructionConfig": "bottleneck",
    "DenoiseConfig": "bottleneck",
    "SumConfig": "first.[!km]* second.[!km]*",  # of a part, kind and mask are shown
    "TargetsConfig": "units_normalise kmeans_hours kmeans_starts units_hop teacher",
    "ValidationConfig": "seconds ids",
    "OptimConfig": "betas eps hold init_scale final_scale",
    "TrainingConfig": """
        log upload profile recompute threads log_every keep pause_at max_skips on_collapse deterministic""",
    "PretrainConfig": """
        model_from_init objective.final_dim objective.logit_temperature objective.gumbel_* objective.decoder_*
        objective.ema_* objective.codebook_* objective.freeze_after training.epochs training.validate_every
        training.ema_decay training.patience training.average""",
    "TokensConfig": "min_count",
    "FinetuneConfig": """
        model.frontend model.encoder.norm model.encoder.layer_drop augment.noise_prob augment.reverb_prob
        adapt pseudo ctc.final_dropout ctc.spec_augment ctc.cr_* ctc.intermediate_* ctc.self_conditioned
        ctc.entropy_weight ctc.layer_lr_decay ctc.unfreeze_every training.patience dev.shards dev.*_seconds
        dev.batches_per_step dev.workers""",
    "EvaluateConfig": "data.batches_per_step",
    "ExportConfig": "data.[!s]*",
    "TuneConfig": "data.batches_per_step",
    "RunConfig": """
        manifest.max_file_seconds manifest.max_bad_fraction manifest.follow_links
        manifest.long_transcripts shard.seed
        shard.max_bad_fraction *.name *.output *.shards *.data.splits *.data.ids *.workers *.batches_per_step
        pretrain.objective.penalty_weight pretrain.objective.targets.units *.schedule *.weight_decay *.clip
        *.compile *.save_every *.device finetune.init finetune.model finetune.tokens finetune.dev finetune.ctc.channel_*
        finetune.ctc.*_dropout finetune.ctc.layer_drop finetune.augment.noise_*
        finetune.augment.gain_db finetune.training.validate_every finetune.training.precision evaluate.model
        evaluate.data evaluate.bootstrap evaluate.seed evaluate.precision evaluate.decoder.beam_*
        evaluate.decoder.hotword* evaluate.decoder.n_best selftrain.[!r]*""",
    "RelabelConfig": "steps carry_over",
    "LabellingConfig": "decoder.beam* decoder.hotword* decoder.n_best",
    "SelftrainConfig": """
        unlabelled.[!is]* unlabelled.shards test.[!is]* test.shards finetune.[!dipt]*
        finetune.tokens finetune.data.[!si]* finetune.training.[!s]*""",
    "CompareObjectivesConfig": """
        manifest shard pretrain.[!dt]* pretrain.data.[!is]* pretrain.training.[!s]* pretrain.training.save_every
        finetune.[!dt]* finetune.dev finetune.tokens finetune.data.[!is]* finetune.training.[!s]*
        finetune.training.save_every evaluate""",
    "AbxConfig": "silences features bootstrap batch_seconds max_bad_fraction",
    "UnderstandConfig": """
        *.output *.alignment *.stack *.device layers.words layers.seed layers.splits layers.batch_seconds
        layers.max_bad_fraction abx.seed abx.splits probe.data probe.kind probe.features probe.shuffle_labels
        probe.bootstrap""",
    "DemoConfig": "synth run.rounds run.relabel run.manifest run.shard run.pretrain run.finetune run.evaluate",
}
"""Dataclass -> its settings that ``--help`` leaves out and ``--help-all`` shows, as paths from it. ``*`` is that of a
shell; a table stands for all of its settings.

A setting that is not named here is shown. Name a new one if few users change it, or if the verb sets it itself. It can
be set on the command line either way.
"""

_GLUE = "\0"
"""A space that no line breaks at."""


class Setting(NamedTuple):
    """One setting of a configuration."""

    path: str
    """As in a TOML file: ``optim.lr``."""
    kind: Any
    """Its type: an annotation."""
    value: Any
    doc: str
    table: str
    """What its table is about."""
    rare: bool


def settings(cfg: Any) -> Iterator[Setting]:
    """Yield every setting of a configuration, those of a table before those of the tables in it."""
    yield from _settings(cfg, "", "", frozenset(), ())


def _settings(cfg: Any, prefix: str, about: str, rare: frozenset[str], kinds: Iterable[str]) -> Iterator[Setting]:
    cls: type = type(cfg)
    hints, docs = typing.get_type_hints(cls), _docs(cls)
    about = about or _plain(str(cls.__doc__).partition("\n")[0])
    rare |= {prefix + pattern for pattern in RARE.get(cls.__name__, "").split()}
    tables = []
    for item in fields(cfg):
        path, value, doc = prefix + item.name, getattr(cfg, item.name), docs.get(item.name, "")
        if is_dataclass(value):
            members = tagged(hints[item.name])
            tables.append((value, f"{path}.", "" if members else doc, rare, members))
        else:
            kind = Literal[tuple(kinds)] if kinds and item.name == "kind" else hints[item.name]
            hidden = any(fnmatchcase(f"{path}.", f"{pattern}.*") for pattern in rare)
            yield Setting(path, kind, value, doc, about, hidden)
    for table in tables:
        yield from _settings(*table)


@cache
def _docs(cls: type) -> dict[str, str]:
    """Return the docstrings of the fields of a dataclass and of those it inherits, on one line each."""
    parent = cls.__base__
    docs = dict(_docs(parent)) if parent is not None and is_dataclass(parent) else {}
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    for field, text in pairwise(node.body if isinstance(node, ast.ClassDef) else ()):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                docs[name] = _plain(doc)
    return docs


def _plain(doc: str) -> str:
    return " ".join(doc.split()).replace("``", "")


def settings_lines(cfg: Any, width: int, *, everything: bool) -> list[str]:
    """Return the settings of a configuration as lines of ``width`` columns.

    Of an objective only the chosen one is in a configuration. ``everything`` lists the settings of :data:`RARE`, too.
    """
    lines: list[str] = []
    table = None
    for setting in settings(cfg):
        if setting.rare and not everything:
            continue
        name = setting.path.rpartition(".")[0]
        if name != table:
            lines += ["", *textwrap.wrap(f"{name}: {setting.table}" if name else "settings:", width)]
            table = name
        value = _shown(setting.value)
        text = (
            _option(setting).replace(", ", ",\n").replace(" ", _GLUE)
            + (f" [{value}]" if value else "")
            + f"{_GLUE} {setting.doc}"
        )
        wrapped = textwrap.wrap(
            text, width, initial_indent="  ", subsequent_indent=" " * 8, break_long_words=False, break_on_hyphens=False
        )
        lines += [line.replace(_GLUE, " ").rstrip() for line in wrapped]
    return lines[1:]


def _option(setting: Setting) -> str:
    """Return an option and the type of its value: ``--optim.lr FLOAT``."""
    if setting.kind is bool:
        table, dot, name = setting.path.rpartition(".")
        return f"--{table}{dot}[no-]{name}".replace("_", "-")
    return f"--{setting.path} ".replace("_", "-") + _type(setting.kind)


def _type(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        words = ",".join(map(str, args))
        return "{" + (words if len(words) < 40 else words.replace(",", ", ")) + "}"  # lines break at the spaces
    if origin is tuple:
        return f"{_type(args[0])} ..." if args[-1] is Ellipsis else " ".join(map(_type, args))
    if args:
        return "|".join("none" if each is type(None) else _type(each) for each in args)
    return str(kind.__name__).upper()


def _shown(value: Any) -> str:
    """Return a value as it is written on a command line; empty for an empty one."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return " ".join(_shown(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
