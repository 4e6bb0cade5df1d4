"""Arrays in one ``.npz`` file: a zip, so that each array carries a checksum; whole or not there.

In: named arrays. Out: the file; the arrays again, in memory or mapped from the file (processes then share the pages).
"""

import threading
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from speechssl.core.errors import DataError
from speechssl.core.files import atomic_file

__all__ = ["Chunks", "load_arrays", "map_arrays", "save_arrays"]

_HEADERS = threading.Lock()
"""Held while numpy parses the headers of arrays, for which it uses ``ast``: in CPython 3.11 two threads that parse at
once can fail with "AST constructor recursion depth mismatch" (CPython issue 106905)."""


@dataclass(frozen=True)
class Chunks:
    """A one-dimensional array that comes in pieces, so that it need not fit in memory."""

    length: int
    dtype: type
    pieces: Iterable[np.ndarray]


def save_arrays(path: Path, /, **arrays: np.ndarray | Chunks) -> None:
    """Write arrays to an ``.npz`` file that is either whole or not there; equal arrays give equal bytes.

    Raises DataError when the file cannot be written.
    """
    try:
        with atomic_file(path) as file, zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    if isinstance(array, Chunks):
                        _write_chunks(member, array)
                    else:
                        np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error}); free some space or check the permissions") from error


def load_arrays(path: Path, names: set[str]) -> dict[str, np.ndarray]:
    """Read the named arrays of an ``.npz`` file, checksums included.

    Raises DataError when the file is missing or damaged, or lacks one of the arrays.
    """
    try:
        with _HEADERS, path.open("rb") as file, np.load(file) as archive:
            return {name: archive[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error


def map_arrays(path: Path, *, check: bool = True) -> dict[str, np.ndarray]:
    """Return all arrays of a file of ``save_arrays``, mapped read-only; ``check`` reads it once against its checksums.

    Raises DataError when the file is missing or damaged, or its arrays are compressed.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            if check and (bad := archive.testzip()):
                raise ValueError(f"checksum of {bad} is wrong")
            return {info.filename.removesuffix(".npy"): _mapped(path, archive, info) for info in archive.infolist()}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error


def _write_chunks(member: IO[bytes], array: Chunks) -> None:
    descr = np.lib.format.dtype_to_descr(np.dtype(array.dtype))
    np.lib.format.write_array_header_1_0(member, {"descr": descr, "fortran_order": False, "shape": (array.length,)})
    for piece in array.pieces:
        member.write(np.ascontiguousarray(piece, dtype=array.dtype).tobytes())


def _mapped(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed")
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with _HEADERS:
            shape, fortran, dtype = read(member)
        header = member.tell()
    if dtype.hasobject or fortran:
        raise ValueError(f"{info.filename} is not an array of numbers")
    if not all(shape):
        return np.zeros(shape, dtype)
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)  # local header (APPNOTE 4.3.7): lengths of the name and the extra field
        name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return np.memmap(path, dtype, "r", info.header_offset + 30 + name + extra + header, shape)


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: missing or damaged ({error}); delete it and run again to rebuild it")
