"""Tables of the public corpora for people: ``speechssl corpus list``, and one corpus with its parts."""

from __future__ import annotations

from collections.abc import Sequence

from speechssl.data.ingest.public.recipes import RECIPES, Recipe

__all__ = ["describe", "listing"]


def listing() -> str:
    """Return a line for each corpus: name, hours, language, licence, gigabytes, how to get it, page."""
    rows = [("NAME", "HOURS", "LANGUAGE", "LICENCE", "GB", "DOWNLOAD", "PAGE")]
    rows += [
        (recipe.name, _grouped(recipe.hours), recipe.language, recipe.licence, _gigabytes(recipe),
         "--download" if recipe.archives else "by hand", recipe.page)
        for recipe in RECIPES
    ]  # fmt: skip
    return (
        _table(rows) + "\n\n'speechssl corpus NAME' describes one; 'speechssl corpus NAME FOLDER' makes its manifest."
    )


def describe(recipe: Recipe) -> str:
    """Return what is known of one corpus, and its parts."""
    lines = [f"{recipe.title}: {recipe.page}"]
    facts = [
        f"about {_grouped(recipe.hours)} hours" if recipe.hours else "",
        f"language: {recipe.language}",
        f"licence: {recipe.licence}" if recipe.licence else "",
    ]
    lines.append(", ".join(fact for fact in facts if fact))
    if recipe.note:
        lines.append(recipe.note)
    splits = (
        "its own splits are kept" if recipe.official else "it has no splits of its own: divided by hash of the speaker"
    )
    lines += [splits, f"expected below FOLDER: {recipe.example}", ""]
    rows = [("SUBSET", "HOURS", "UTTERANCES", "GB", "ARCHIVE")]
    for part in recipe.parts:
        archive = part.archive
        rows.append((
            part.name + (" *" if part.name in recipe.default else ""),
            "" if part.hours is None else f"{part.hours:g}",
            "" if part.utterances is None else f"{part.utterances:,}",
            "" if archive is None or archive.gigabytes is None else f"{archive.gigabytes:g}",
            "" if archive is None else archive.url,
        ))  # fmt: skip
    lines.append(_table(rows))
    if recipe.default:
        lines.append("* read when no --subset is given")
    way = "[--download] [--subset ...]" if recipe.archives else "[--subset ...]   (get the archive from its page first)"
    lines += ["", f"speechssl corpus {recipe.name} FOLDER {way}"]
    return "\n".join(lines)


def _grouped(hours: str) -> str:
    return f"{int(hours):,}" if hours.isdigit() else hours


def _gigabytes(recipe: Recipe) -> str:
    """Return the size of all archives, or of the one that is read without being named."""
    parts = recipe.choose(())
    archives = {part.archive for part in parts if part.archive is not None}
    sizes = [archive.gigabytes for archive in archives]
    return f"{sum(size for size in sizes if size):g}" if sizes and None not in sizes else ""


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
