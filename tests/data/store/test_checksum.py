"""The checksum is zlib's, whichever library computes it."""

import subprocess
import sys
import zlib

import numpy as np
import pytest

from speechssl.data.store.checksum import crc32


@pytest.mark.parametrize("size", [0, 1, 3, 64, 4097, 100_003])
def test_it_is_that_of_zlib(size):
    data = np.random.default_rng(size).bytes(size)
    assert crc32(data) == crc32(bytearray(data)) == crc32(memoryview(data)) == zlib.crc32(data)
    assert crc32(memoryview(b"x" + data)[1:]) == zlib.crc32(data)


def test_without_the_faster_library_it_is_zlib_itself():
    code = (
        "import sys; sys.modules['isal'] = None; import zlib; from speechssl.data.store.checksum import crc32; "
        "print(crc32 is zlib.crc32)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
