"""FLAC frames of one channel of 16 bits, decoded by Python that numba compiles for the processor at hand.

In: a whole FLAC stream in memory. Out: its samples, or a refusal: what shards are not written with (linear predictors,
stereo, blocks of varying size) and whatever is damaged is left to a decoder of all of FLAC. Twice as fast as dr_flac:
the codes of two to eight samples come out of one 64-bit word with no branch between them.

Sections named are those of RFC 9639. Positions in a stream are in bits; no read or write leaves its array.
"""
# What numba compiles has its types from there; intrinsics have the arguments that it gives them.
# mypy: allow-untyped-defs, disable-error-code="import-untyped, untyped-decorator"
# ruff: noqa: ARG001, PLR0917

import sys
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic as typed_intrinsic

__all__ = ["decode_frames"]

SIGNATURE = "int64(Array(uint8, 1, 'C', readonly=True), int64, int64, int16[::1], int32[::1])"
SAFE = 57
"""Bits of a word that are there wherever in its first byte a code begins."""

BEYOND = 1 << 60
"""The end of whatever is not a regular part of a frame."""

config: Any = numba.config
if config.DISABLE_JIT or sys.byteorder != "little":
    raise ImportError("numba compiles nothing (NUMBA_DISABLE_JIT), or this processor stores the high byte first")

njit: Any = numba.njit
intrinsic: Any = typed_intrinsic
u64, i32 = np.uint64, np.int32
ONE = np.uint64(1)


def _crc16_tables() -> np.ndarray:
    """Return [16, 256]: CRC-16 of section 9.3 of each byte followed by 0 to 15 zero bytes."""
    tables = np.zeros((16, 256), np.uint16)
    for byte in range(256):
        crc = byte << 8
        for step in range(8 * 16):
            crc = (crc << 1 ^ (0x8005 if crc & 0x8000 else 0)) & 0xFFFF
            if step % 8 == 7:
                tables[step // 8, byte] = crc
    return tables


CRC = _crc16_tables()


@intrinsic
def _pointer(context: Any, array: Any) -> Any:
    """Return where an array begins. Raw pointer: no reference counting, no bounds checks."""

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return target.make_array(signature.args[0])(target, builder, arguments[0]).data

    return types.CPointer(array.dtype)(array), generate


@intrinsic
def _load(context: Any, data: Any, byte: Any) -> Any:
    """Return eight bytes from ``byte`` on, big-endian, in one instruction; they must be there."""

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.bswap(builder.load(place, align=1))

    return types.uint64(data, types.int64), generate


@intrinsic
def _leading_zeros(context: Any, word: Any) -> Any:
    """Return how many zeros a word begins with, in one instruction."""

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@njit(inline="never")
def _last_word(data, size, pos):
    """Return the word at ``pos``, zeros after the end."""
    word, byte = u64(0), pos >> 3
    for i in range(8):
        word = word << u64(8) | u64(data[byte + i] if byte + i < size else 0)
    return word << u64(pos & 7)


@njit
def _word(data, size, pos):
    """Return ``SAFE`` or more bits from ``pos`` on, at the top of a word."""
    return _load(data, pos >> 3) << u64(pos & 7) if (pos >> 3) + 8 <= size else _last_word(data, size, pos)


@njit
def _bits(data, size, pos, n):
    """Return the next n < 57 bits as a number."""
    return np.int64(_word(data, size, pos) >> ONE >> u64(63 - n))


@njit
def _signed(data, size, pos, n):
    """Return the next 0 < n < 57 bits as a number in two's complement."""
    value = _bits(data, size, pos, n)
    return value - (value >> (n - 1) << n)


@njit
def _residual(word, zeros, k):
    """Return the number whose Rice code of parameter k is at the top of a word (section 9.2.7.3)."""
    # The one that ends the zeros is still on top of the low bits: taken off the quotient instead of masked.
    folded = (word << u64(zeros & 63) >> u64(63 - k)) + (u64(zeros) << u64(k)) - (ONE << u64(k))
    return i32(folded >> ONE) ^ -i32(folded & ONE)


@njit(inline="never")
def _long_residual(data, size, pos, k):
    """Return where the next Rice code ends and its number, however many zeros it has."""
    quotient = 0
    while pos < 8 * size:
        zeros = _leading_zeros(_word(data, size, pos))
        if zeros < SAFE:
            pos += zeros + 1
            folded = u64(((quotient + zeros) << k) + _bits(data, size, pos, k))
            return pos + k, i32(folded >> ONE) ^ -i32(folded & ONE)
        quotient += SAFE
        pos += SAFE
    return BEYOND, i32(0)


def _groups_of(group: int) -> Any:
    """Return a decoder of Rice codes that takes ``group`` of them from one word."""

    @njit(inline="always")
    def decode(data, size, pos, k, out, i, end):
        """Decode ``out[i:end]`` while a group fits; return where it stops in the data and in ``out``."""
        fast = 8 * (size - 8)
        while i + group <= end and pos < fast:
            word = _load(data, pos >> 3) << u64(pos & 7)
            used = 0
            for j in range(group):
                zeros = _leading_zeros(word)
                out[i + j] = _residual(word, zeros, k)
                used += zeros + k + 1
                word <<= u64((zeros + k + 1) & 63)
            if used <= SAFE:
                pos += used
                i += group
            else:  # the word did not hold them all: what was written is written again
                pos, out[i] = _long_residual(data, size, pos, k)
                i += 1
        return pos, i

    return decode


_twos, _fours, _eights = _groups_of(2), _groups_of(4), _groups_of(8)


@njit(inline="always")
def _partition(data, size, pos, k, out, i, end):
    """Decode the residuals ``out[i:end]`` of a partition (section 9.2.7.1); return where it ends."""
    if k <= 3:
        pos, i = _eights(data, size, pos, k, out, i, end)
    if k <= 9:
        pos, i = _fours(data, size, pos, k, out, i, end)
    pos, i = _twos(data, size, pos, k, out, i, end)
    while i < end and pos < BEYOND:
        pos, out[i] = _long_residual(data, size, pos, k)
        i += 1
    return pos


@njit
def _residuals(data, size, pos, wide, samples, order):
    """Decode the residuals of all samples but ``order`` (section 9.2.7); return where they end."""
    method, partitions = _bits(data, size, pos, 2), 1 << _bits(data, size, pos + 2, 4)
    pos += 6
    each = samples // partitions
    if method > 1 or each * partitions != samples or each < order:
        return BEYOND
    begin = order
    for end in range(each, samples + 1, each):
        k = _bits(data, size, pos, 4 + method)
        pos += 4 + method
        if k == (15 if method == 0 else 31):
            return BEYOND  # not coded at all
        pos = _partition(data, size, pos, k, wide, begin, end)
        begin = end
    return pos


@njit
def _sum_once(wide, samples, at):
    """Undo one difference from ``wide[at]`` on."""
    total = wide[at - 1]
    for i in range(at, samples):
        total += wide[i]
        wide[i] = total


@njit
def _sum_twice(wide, samples, at):
    """Undo two differences, from ``wide[at]`` and from ``wide[at - 1]`` on."""
    slope = wide[at - 1]
    total = wide[at - 2] + slope
    wide[at - 1] = total
    for i in range(at, samples):
        slope += wide[i]
        total += slope
        wide[i] = total


@njit
def _undo_fixed(wide, samples, order):
    """Turn samples and residuals of a fixed predictor (section 9.2.5), the ``order``-th differences, into samples."""
    for level in range(1, order):
        for i in range(order - 1, level - 1, -1):
            wide[i] -= wide[i - 1]
    if order in (1, 3):
        _sum_once(wide, samples, order)
    elif order == 4:
        _sum_twice(wide, samples, 4)
    if order > 1:
        _sum_twice(wide, samples, 2)


@njit
def _subframe(data, size, pos, wide, samples):
    """Decode a channel (section 9.2); return where it ends."""
    head = _bits(data, size, pos, 8)
    pos += 8
    kind, depth = head >> 1 & 63, 16
    if head & 1:  # low bits that are zero everywhere
        unused = _leading_zeros(_word(data, size, pos)) + 1
        pos += unused
        depth -= unused
    fixed = 8 <= kind <= 12
    order = kind - 8 if fixed else kind * samples
    if head >> 7 or depth < 1 or order > samples or not (kind < 2 or fixed):
        return BEYOND
    for i in range(order):
        wide[i] = _signed(data, size, pos, depth)
        pos += depth
    if kind == 0:
        value = _signed(data, size, pos, depth)
        pos += depth
        for i in range(samples):
            wide[i] = value
    elif fixed:
        pos = _residuals(data, size, pos, wide, samples, order)
        _undo_fixed(wide, samples, order)
    if depth < 16:
        for i in range(samples):
            wide[i] <<= i32(16 - depth)
    return pos


@njit
def _header(data, size, pos, number):
    """Return where the header of frame ``number`` ends and the frame's samples (section 9.1); 0 of any other frame."""
    size_code = _bits(data, size, pos + 16, 4)
    if _bits(data, size, pos, 16) != 0xFFF8 or _bits(data, size, pos + 20, 4) not in (0, 5):
        return pos, 0  # not of blocks of one size, or not of 16 kHz
    if _bits(data, size, pos + 24, 8) not in (0x00, 0x08):
        return pos, 0  # not one channel of 16 bits
    found = _bits(data, size, pos + 32, 8)
    pos += 40
    more = _leading_zeros(~(u64(found) << u64(56))) - 1  # bytes that follow, as in UTF-8
    if more > 0:
        found &= (1 << (6 - more)) - 1 if more < 6 else 0
    for _ in range(more):
        found = found << 6 | _bits(data, size, pos, 8) & 63
        pos += 8
    if found != number or more == 0 or more > 6:
        return pos, 0
    if size_code == 1:
        samples = 192
    elif 2 <= size_code <= 5:
        samples = 576 << (size_code - 2)
    elif size_code >= 8:
        samples = 256 << (size_code - 8)
    elif size_code == 6:
        samples = _bits(data, size, pos, 8) + 1
        pos += 8
    elif size_code == 7:
        samples = _bits(data, size, pos, 16) + 1
        pos += 16
    else:
        samples = 0
    return pos + 8, samples  # the CRC-8 is left out: the frame's CRC-16 covers the header too


@njit
def _crc16(data, begin, end):
    """Return the CRC-16 of the bytes ``begin`` to ``end``: 0 of a whole frame with its own at its end (section 9.3)."""
    crc, byte = u64(0), begin
    while byte + 16 <= end:
        high, low = _load(data, byte), _load(data, byte + 8)
        rest = u64(0)  # apart from what waits for the last sixteen bytes
        for i in range(8):
            rest ^= u64(CRC[u64(7 - i), low >> u64(56 - 8 * i) & u64(255)])
            if i > 1:
                rest ^= u64(CRC[u64(15 - i), high >> u64(56 - 8 * i) & u64(255)])
        high = high >> u64(48) ^ crc
        crc = u64(CRC[u64(15), high >> u64(8)]) ^ u64(CRC[u64(14), high & u64(255)]) ^ rest
        byte += 16
    for i in range(byte, end):
        crc = crc << u64(8) & u64(0xFFFF) ^ u64(CRC[u64(0), crc >> u64(8) ^ u64(data[i])])
    return crc


@njit
def _narrow(wide, begin, end, out, at):
    """Write ``wide[begin:end]`` as 16 bits to ``out`` from ``at`` on; return whether they all fit."""
    beyond = i32(0)
    for i in range(begin, end):
        value = wide[i]
        beyond |= (value + i32(32768)) >> i32(16)
        out[at + i - begin] = np.int16(value)
    return beyond == 0


def _kept(function: Any) -> Any:
    """Return a function compiled now, or at an earlier time: machine code is kept where there is room for it."""
    try:
        return njit(SIGNATURE, nogil=True, cache=True)(function)
    except RuntimeError:  # neither beside this file nor in the user's cache
        return njit(SIGNATURE, nogil=True)(function)


@_kept
def decode_frames(stream, first, start, out, room):
    """Write samples ``start`` to ``start + len(out)`` of a stream; return how many of all samples were decoded.

    Parameters
    ----------
    stream
        uint8 [bytes], read-only.
    first
        Byte at which the first frame begins.
    start
        First sample that is wanted; those before it are decoded, too.
    out
        int16 [n]; receives the samples.
    room
        int32 [samples of the largest frame]; scratch.

    Returns
    -------
    int
        ``start + len(out)`` or more; less where a frame is damaged or of another kind, ``out`` is then undefined.
    """
    data, size, wide, target = _pointer(stream), len(stream), _pointer(room), _pointer(out)
    pos, done, number, stop = 8 * first, 0, 0, start + len(out)
    while done < stop:
        begin = pos >> 3
        pos, samples = _header(data, size, pos, number)
        if not 0 < samples <= len(room):
            return done
        pos = _subframe(data, size, pos, wide, samples)
        end = ((pos + 7) >> 3) + 2
        if end > size or _crc16(data, begin, end):
            return done
        skipped, taken = max(start - done, 0), min(stop - done, samples)
        if not _narrow(wide, skipped, taken, target, done + skipped - start):
            return done
        pos, done, number = 8 * end, done + samples, number + 1
    return done
