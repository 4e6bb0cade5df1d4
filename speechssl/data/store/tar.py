"""The bytes of a shard: plain POSIX tar members with every variable field fixed, and the files that go into them.

In: an utterance, its encoded audio. Out: tar bytes that depend on nothing else, so that equal input gives equal shards
and a reader can say what any byte of a shard should be. Ids of more than 95 characters need a pax header before their
member (the ustar name field has 100 bytes); everything else is ustar.
"""

import json
import tarfile

from speechssl.data.ingest.utterance import Utterance, to_row

__all__ = ["BLOCK", "end_of_archive", "header", "member", "padding", "quick_header", "sidecars", "utterance_json"]

BLOCK = tarfile.BLOCKSIZE
NAME_FIELD = 100
LARGEST_USTAR = 8**11


def header(name: str, size: int) -> bytes:
    """Return the header blocks of a regular file of ``size`` bytes: mode 0644, owner 0, time 0."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime, info.uid, info.gid = size, 0o644, 0, 0, 0
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def quick_header(name: str, size: int) -> bytes:
    """Return what ``header`` does, ten times as fast: only name, size and checksum of a ustar header differ."""
    encoded = name.encode()
    if len(encoded) >= NAME_FIELD or size >= LARGEST_USTAR or not name.isascii():
        return header(name, size)
    digits = b"%011o" % size
    checksum = _PLAIN_SUM + sum(encoded) + sum(digits)
    return b"".join(
        (encoded.ljust(NAME_FIELD, b"\0"), _PLAIN[100:124], digits, _PLAIN[135:148], b"%06o" % checksum, _PLAIN[154:])
    )


def padding(size: int) -> bytes:
    """Return the zeros that follow a payload of ``size`` bytes."""
    return bytes(-size % BLOCK)


def member(name: str, payload: bytes) -> bytes:
    """Return a whole member: header, payload, padding."""
    return header(name, len(payload)) + payload + padding(len(payload))


def end_of_archive(size: int) -> bytes:
    """Return what closes an archive of ``size`` bytes so far: two zero blocks, then zeros up to a full record."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % tarfile.RECORDSIZE)


def utterance_json(utterance: Utterance) -> bytes:
    """Return ``ID.json``: the utterance's line of the manifest."""
    return (json.dumps(to_row(utterance), ensure_ascii=False) + "\n").encode()


def sidecars(utterance: Utterance) -> bytes:
    """Return the members that follow the audio: ``ID.json``, and ``ID.txt`` when there is a transcript."""
    members = member(f"{utterance.id}.json", utterance_json(utterance))
    if utterance.text is not None:
        members += member(f"{utterance.id}.txt", utterance.text.encode())
    return members


_PLAIN = header("", 0)
_PLAIN_SUM = sum(_PLAIN[:148]) + sum(_PLAIN[156:]) + 8 * ord(" ") - 11 * ord("0")
