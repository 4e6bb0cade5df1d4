"""Archive: members that tarfile agrees with, and that nothing but name and payload decides."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.data.ingest.manifest import Utterance
from speechssl.data.ingest.utterance import from_row
from speechssl.data.store.tar import BLOCK, end_of_archive, header, member, quick_header, sidecars

names = st.text("aZ09_-", min_size=1, max_size=120)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(names, st.binary(max_size=1500)), max_size=5, unique_by=lambda pair: pair[0]))
def test_tarfile_reads_what_was_written(members):
    data = b"".join(member(name + ".flac", payload) for name, payload in members)
    data += end_of_archive(len(data))
    assert len(data) % tarfile.RECORDSIZE == 0
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert [(m.name, tar.extractfile(m).read()) for m in tar] == [(name + ".flac", load) for name, load in members]


def test_short_names_are_bit_for_bit_what_tarfile_calls_ustar():
    info = tarfile.TarInfo("a.flac")
    info.size = 700
    assert header("a.flac", 700) == info.tobuf(tarfile.USTAR_FORMAT)
    assert len(header("x" * 95 + ".flac", 1)) == BLOCK
    assert len(header("x" * 96 + ".flac", 1)) > BLOCK


@pytest.mark.parametrize(("text", "n"), [(None, 1), ("", 2), ("héllo", 2)])
def test_sidecars_hold_the_manifest_line_and_the_transcript(text, n):
    import json

    utterance = Utterance("a", "x/y.wav", 1.25, 44_100, 2, start=3.0, text=text, meta={"k": [1, "ä"]})
    with tarfile.open(fileobj=io.BytesIO(sidecars(utterance) + end_of_archive(0))) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    assert len(files) == n
    assert from_row(json.loads(files["a.json"])) == utterance
    assert text is None or files["a.txt"].decode() == text


@given(
    st.one_of(st.text("abc-_.09", min_size=1, max_size=130), st.text(min_size=1, max_size=40)),
    st.one_of(st.integers(0, 1 << 36), st.sampled_from([8**11 - 1, 8**11])),
)
def test_the_quick_header_is_the_header(name, size):
    name = name.encode("utf-8", "ignore").decode().replace("\0", "") or "x"
    assert quick_header(name, size) == header(name, size)
