"""Verbs on audio and manifests: ``corpus``, ``manifest``, ``shard``, ``verify``."""

import re
from pathlib import Path

from speechssl.cli.arguments import load, positional, wants_help
from speechssl.cli.help import verb_help
from speechssl.core.errors import ConfigError

__all__ = ["audit", "corpus", "manifest", "shard", "verify"]


def corpus(words: list[str], overrides: list[str]) -> None:
    """List the public corpora, say what is known of one, or make its manifest."""
    from speechssl.data.ingest.public.listing import describe, listing
    from speechssl.data.ingest.public.recipes import find_recipe

    if not wants_help(overrides) and not overrides and len(words) == 1:
        print(listing() if words[0] == "list" else describe(find_recipe(words[0])))
        return
    from speechssl.config import CorpusConfig
    from speechssl.config.load import write_toml
    from speechssl.core.progress import progress

    (name, folder), cfg = load(CorpusConfig, "corpus", words, overrides, 2)
    from speechssl.data.ingest.public.build import make_corpus

    with progress("corpus", unit="files") as advance:
        summary = make_corpus(name, Path(folder), cfg, advance)
    output = Path(cfg.output) if cfg.output else Path(folder) / "manifest"
    write_toml(cfg, output / "config.toml")
    print(f"{summary}\n  {output / 'manifest.jsonl'}")


def manifest(words: list[str], overrides: list[str]) -> None:
    """Find audio and transcripts of a folder, or of webdataset tars."""
    from speechssl.config import ManifestConfig
    from speechssl.config.load import write_toml
    from speechssl.core.progress import progress
    from speechssl.data.ingest.foreign.manifest import manifest_of

    (folder, output), cfg = load(ManifestConfig, "manifest", words, overrides, 2)
    with progress("manifest", unit="files") as advance:
        summary = manifest_of(folder, Path(output), cfg, advance)
    write_toml(cfg, Path(output) / "config.toml")
    print(summary)


def shard(words: list[str], overrides: list[str]) -> None:
    """Write a manifest as webdataset shards, here or to an object store."""
    from speechssl.config import ShardConfig
    from speechssl.config.load import write_toml
    from speechssl.core.progress import progress
    from speechssl.data.store.remote import cache_folder, put, scheme
    from speechssl.data.store.writer import shard_manifest

    part, overrides = _part(overrides)
    (manifest, output), cfg = load(ShardConfig, "shard", words, overrides, 2)
    path, store = Path(manifest), output.rstrip("/") if scheme(output) not in ("", "file") else ""
    folder = cache_folder("", f"{store} written") if store else Path(output)
    with progress("shard", unit="utterances") as advance:
        path = path / "manifest.jsonl" if path.is_dir() else path
        summary = shard_manifest(path, folder, cfg, advance, store=store, part=part)
    print(summary)
    if part is not None:
        print(f"part {part[0]} of {part[1]} is done; after all of them, the same command without --part ends the work")
        return
    write_toml(cfg, folder / "config.toml")
    if store:
        put(folder / "config.toml", f"{store}/config.toml")


def _part(overrides: list[str]) -> tuple[tuple[int, int] | None, list[str]]:
    """Return the (i, n) of ``--part i/n``, None without it, and the other words."""
    from speechssl.config.load import take

    value, left = take("--part", overrides)
    if value is None:
        return None, left
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", value)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(f"--part {value}: give I/N, the I-th of N parts, with I from 1 to N, such as 3/100")
    return (int(found[1]), int(found[2])), left


def verify(words: list[str], overrides: list[str]) -> int:
    """Check shards against their index and checksums."""
    if wants_help(overrides):
        print(verb_help("verify"), end="")
        return 0
    if overrides:
        raise ConfigError(f"verify takes no settings (got {' '.join(overrides)})")
    (folder,) = positional(words, "verify", 1)
    from speechssl.data.store.verify import verify_shards

    summary = verify_shards(Path(str(folder)))
    for problem in summary.problems:
        print(f"{problem.item}\t{problem.reason}\t{problem.detail}")
    print(f"{summary.checked} items checked, {len(summary.problems)} problems")
    return 0 if summary.ok else 1


def audit(words: list[str], overrides: list[str]) -> int:
    """Look for faults in a manifest or a folder of audio."""
    from speechssl.config import AuditConfig
    from speechssl.core.progress import progress
    from speechssl.data.audit.audit import audit as look
    from speechssl.reports.audit import write_audit

    (source,), cfg = load(AuditConfig, "audit", words, overrides, 1)
    with progress("audit", unit="utterances") as advance:
        found = look(Path(source), cfg, advance)
    page = write_audit(found, cfg, Path(cfg.output or "audit"))
    print(page.with_name("audit.txt").read_text(encoding="utf-8").split("\n\n", 1)[0])
    for finding in found.findings[:20]:
        print(f"  {finding.severity}\t{finding.check}\t{finding.item}\t{finding.detail}")
    if len(found.findings) > 20:
        print(f"  and {len(found.findings) - 20} more in {page.with_name('findings.jsonl')}")
    print(page)
    return found.exit_code(cfg.fail_on)
