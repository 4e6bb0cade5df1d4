"""Fetches the archives of public corpora with torchaudio's checksums and torch.hub's downloader, and unpacks them.

In: the wanted parts of a recipe. Out: folders below the corpus folder, each whole or not there. An archive that is
there already is checked and used: one fetched by other means (a browser, ``curl -C -``) needs the right name.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechssl.core.errors import DataError
from speechssl.core.files import atomic_path, exclusive
from speechssl.data.ingest.public.recipes import Archive, Part
from speechssl.data.ingest.public.unpack import unpack

__all__ = ["checksum", "fetch"]

TIMEOUT = 60.0
"""Seconds without a byte after which a download has failed."""


def checksum(archive: Archive) -> str:
    """Return the SHA-256 that torchaudio lists for an archive.

    Raises DataError when the installed torchaudio has none for this address.
    """
    module = importlib.import_module(f"torchaudio.datasets.{archive.module}")
    found: str | None = getattr(module, "_CHECKSUMS", {}).get(archive.url)
    releases: dict[str, dict[str, Any]] = getattr(module, "_RELEASE_CONFIGS", {})
    for release in releases.values():
        if release.get("url") == archive.url:
            found = release.get("checksum")
    if getattr(module, "_URL", None) == archive.url:
        found = getattr(module, "_CHECKSUM", None)
    if not found:
        raise DataError(
            f"torchaudio.datasets.{archive.module} has no checksum for {archive.url}; install torchaudio 2.11"
        )
    return found


def fetch(parts: Sequence[Part], folder: Path) -> None:
    """Download, check and unpack the archives of ``parts`` that are not unpacked yet.

    Raises
    ------
    DataError
        An archive cannot be downloaded, has another checksum, is damaged, or would leave the folder; another process is
        downloading here; or the disk has no room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = tuple(dict.fromkeys(p.archive for p in parts if p.archive and not (folder / p.archive.creates).is_dir()))
    if not missing:
        return
    with exclusive(folder / ".download.lock"):
        for archive in missing:
            for leftover in folder.glob(f"{archive.name}.*.partial"):  # of a killed download
                leftover.unlink()
        _need_room(folder, missing)
        for archive in missing:
            _fetch(archive, folder)


def _need_room(folder: Path, archives: Sequence[Archive]) -> None:
    """Check the free space before hours of downloading; an unpacked corpus is about as large as its archive."""
    needed = sum((a.gigabytes or 0.0) * (1 if (folder / a.name).exists() else 2) for a in archives)
    free = shutil.disk_usage(folder).free / 1e9
    if needed > free:
        names = ", ".join(archive.name for archive in archives)
        raise DataError(f"{folder}: {names} need about {needed:.0f} GB, {free:.0f} GB are free; choose another folder")


def _fetch(archive: Archive, folder: Path) -> None:
    wanted = checksum(archive)
    path = folder / archive.name
    if path.exists():
        print(f"{path}: checking", file=sys.stderr, flush=True)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != wanted:
            raise DataError(
                f"{path}: not the published archive, or incomplete (SHA-256 {found[:16]}..., expected "
                f"{wanted[:16]}...); delete it and run the same command again"
            )
    else:
        _download(archive, path, wanted)
    print(f"{path}: unpacking", file=sys.stderr, flush=True)
    for name in unpack(path, folder, creates=archive.creates, into=archive.into):
        print(f"{path}: left out {name!a}: neither a file nor a link to one", file=sys.stderr)


def _download(archive: Archive, path: Path, wanted: str) -> None:
    from torch.hub import download_url_to_file

    print(f"{archive.url} -> {path}", file=sys.stderr, flush=True)
    hint = f"run the same command again, or put the file there by other means (`curl -C - -o {path} {archive.url}`)"
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torch.hub sets no timeout: a server that stops sending would block us forever
    try:
        with atomic_path(path) as temporary:
            download_url_to_file(archive.url, str(temporary), hash_prefix=wanted, progress=sys.stderr.isatty())
    except RuntimeError as error:
        raise DataError(
            f"{archive.url}: incomplete or damaged during the download ({error}); nothing is kept; {hint}"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{archive.url}: cannot be downloaded ({error}); {hint}") from error
    finally:
        socket.setdefaulttimeout(before)
