"""Unpacks an archive so that its folder is either whole or not there.

In: a tar (compressed or not) or zip file. Out: its regular files below a folder. Names that leave the folder are an
error, before any file has its final name. Devices are left out. A link becomes a second name of the file it points to,
if that file is in the archive too.
"""

from __future__ import annotations

import lzma
import os
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from speechssl.core.errors import DataError
from speechssl.core.files import merge_folder, remove_leftovers, sync_tree, temporary_path

__all__ = ["unpack"]


def unpack(archive: Path, folder: Path, *, creates: str, into: str = "") -> list[str]:
    """Unpack ``archive`` below ``folder / into``; return what was left out: devices, links to what is not in it.

    Everything goes into a hidden folder first and is moved from there, last ``creates``: the relative folder whose
    presence shows that the archive is unpacked. After an error nothing is left.

    Raises
    ------
    DataError
        The archive is incomplete or damaged, a name leaves the folder, or ``creates`` is not in it.
    OSError
        The disk is full, or the folder cannot be written.
    """
    remove_leftovers(folder, deep=False)
    with temporary_path(folder / f".unpacking-{archive.name}") as stage:
        target = stage / into
        target.mkdir(parents=True)
        try:
            skipped = _unzip(archive, target) if zipfile.is_zipfile(archive) else _untar(archive, target)
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, UnicodeError) as error:
            raise DataError(f"{archive}: incomplete or damaged ({error}); delete it and get it again") from error
        except OSError as error:
            if error.errno is not None:  # an error of the system, such as a full disk
                raise
            raise DataError(f"{archive}: incomplete or damaged ({error}); delete it and get it again") from error
        if not (stage / creates).is_dir():
            raise DataError(f"{archive}: no folder {creates} in it; is it another archive under this name?")
        sync_tree(stage)
        merge_folder(stage, folder, last=stage / creates)
        merge_folder(stage / creates, folder / creates)
    return skipped


def _inside(target: Path, name: str, archive: Path) -> Path:
    """Return where a member goes; DataError when that is not below ``target``."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or (path.parts and path.parts[0].endswith(":")):
        raise DataError(f"{archive}: the name {name!a} leaves the folder; nothing of this archive is unpacked")
    return target / path


class _Blocks:
    """A file that keeps the last block it returned: at the end, the block at which ``tarfile`` stopped."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._file.read(size)
        if size == tarfile.BLOCKSIZE:
            self.last = data
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _untar(archive: Path, target: Path) -> list[str]:
    skipped: list[str] = []
    links: list[tuple[Path, Path, str]] = []
    with tarfile.open(archive, "r:*") as tar:
        blocks = tar.fileobj = _Blocks(tar.fileobj)
        for member in tar:
            path = _inside(target, member.name, archive)
            if member.issym() or member.islnk():
                base = path.parent if member.issym() else target
                links.append((path, base / member.linkname, member.name))
            elif member.isfile() or member.isdir():
                tar.extract(member, target, filter="data")
            else:
                skipped.append(member.name)
        if blocks.last != bytes(tarfile.BLOCKSIZE):  # tarfile treats a cut or damaged header as the end of the tar
            raise tarfile.ReadError("it does not end as a tar file does")
        while blocks.read(1 << 20):  # to the end of a compressed stream, where its own checksum is
            continue
    root = target.resolve()
    for path, points, name in links:
        source = Path(os.path.normpath(points))
        if source.is_relative_to(target) and source.resolve().is_relative_to(root) and source.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            os.link(source, path)
        else:
            skipped.append(name)
    return skipped


def _unzip(archive: Path, target: Path) -> list[str]:
    skipped: list[str] = []
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            _inside(target, info.filename, archive)
            kind = info.external_attr >> 16 & 0o170000
            if kind not in (0, 0o100000, 0o040000):
                skipped.append(info.filename)
            else:
                file.extract(info, target)  # checks the CRC of each member
    return skipped
