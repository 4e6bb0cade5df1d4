"""Damaged shards: what is reported, and what is skipped while training, is exactly what is damaged."""

import io
import tarfile
from pathlib import Path

import pytest

from speechssl.config import DataConfig
from speechssl.data.batches.plan import Plan
from speechssl.data.batches.stream import Stream, evaluation_batches
from speechssl.data.store.reader import Corpus, open_corpus
from speechssl.data.store.tar import end_of_archive, member, padding, sidecars
from speechssl.data.store.verify import verify_shards
from tests.support.chirps import chirp_shards

SECONDS = [0.5 + 0.03 * i for i in range(16)]
CFG = DataConfig(min_seconds=0.1, batch_seconds=4.0, buckets=4, workers=0, splits=(), max_bad_fraction=1.0)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return chirp_shards(tmp_path_factory.mktemp("damage"), SECONDS, shard_seconds=6.0)


@pytest.fixture
def shards(pristine, tmp_path):
    for path in pristine.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def rows_of(corpus: Corpus, shard: int):
    return [corpus.row(i) for i in range(len(corpus)) if corpus.shard_of[i] == shard]


def skipped(folder: Path) -> set[str]:
    """Ids that training skips in one epoch, and that evaluation skips: the same."""
    corpus = open_corpus(folder)
    plan = Plan.pretrain(corpus, CFG, 1, align=320)
    stream = Stream(corpus, plan, CFG, batches_per_step=1)
    batches = [batch for step in range(plan.batches_per_epoch) for batch in stream.step(step)]
    bad = {entry.item for batch in batches for entry in batch.rejected}
    for batch in batches:
        for name, weight, wave in zip(batch.ids, batch.weights.tolist(), batch.wave, strict=True):
            assert (weight == 0) == (name in bad)
            assert bool(wave.any()) == (weight == 1)
    assert {name for batch in batches for name in batch.ids} == set(corpus.ids)
    evaluated = [entry.item for batch in evaluation_batches(corpus, CFG, workers=0) for entry in batch.rejected]
    assert set(evaluated) == bad
    assert len(evaluated) == len(bad)
    return bad


def reported(folder: Path) -> tuple[set[str], set[str]]:
    """Damaged ids, and reasons for whole files."""
    ids, files = set(), set()
    known = set(open_corpus(folder).ids)
    summary = verify_shards(folder)
    assert summary.checked == len(SECONDS)
    assert summary.ok == (not summary.problems)
    for entry in summary.problems:
        (ids if entry.item in known else files).add(entry.item if entry.item in known else entry.reason)
    return ids, files


def test_whole_shards_have_no_problem(shards):
    summary = verify_shards(shards)
    assert (summary.ok, summary.checked, summary.problems) == (True, 16, [])
    assert skipped(shards) == set()


def flip(data: bytearray, i: int) -> bytearray:
    data[i] ^= 4
    return data


def zero(data: bytearray, i: int, size: int) -> bytearray:
    data[i : i + size] = bytes(size)
    return data


DAMAGES = {  # name -> (what to do to the tar at row k, which rows of the shard that damages)
    "truncate at a header": (lambda data, row: data[: row.offset - 512], "from"),
    "truncate inside a header": (lambda data, row: data[: row.offset - 300], "from"),
    "truncate inside a payload": (lambda data, row: data[: row.offset + row.size // 2], "from"),
    "flip a header byte": (lambda data, row: flip(data, row.offset - 512 + 130), "only"),
    "flip a payload byte": (lambda data, row: flip(data, row.offset + row.size // 2), "only"),
    "zero a header": (lambda data, row: zero(data, row.offset - 512, 512), "only"),
    "zero a payload page": (lambda data, row: zero(data, row.offset + 4096, 4096), "only"),
    "drop the end blocks": (lambda data, row: data[: -tarfile.RECORDSIZE], "end"),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda name: name.replace(" ", "-"))
def test_reported_and_skipped_are_exactly_the_damaged(shards, damage):
    corpus = open_corpus(shards)
    rows = rows_of(corpus, 1)
    assert len(rows) >= 4
    path, row = shards / "shard-000001.tar", rows[2]
    change, extent = DAMAGES[damage]
    data = bytearray(path.read_bytes())
    if extent == "end":  # exactly the zeros after the last member
        last = rows[-1]
        end = last.offset + last.size + len(padding(last.size))
        end += len(sidecars(corpus.utterances()[last.id]))
        data = data[:end]
    else:
        data = change(data, row)
    path.write_bytes(data)
    damaged = {"from": {r.id for r in rows[2:]}, "only": {row.id}, "end": set()}[extent]
    ids, files = reported(shards)
    assert skipped(shards) == damaged
    assert ids == damaged
    assert files == (
        {"wrong_size"} if extent == "from" else {"wrong_size", "damaged_end"} if extent == "end" else set()
    )


def test_one_flipped_bit_anywhere_in_a_shard_is_reported(shards):
    """No byte of a shard is unaccounted for."""
    path = shards / "shard-000000.tar"
    data = path.read_bytes()
    for i in range(0, len(data), len(data) // 60):
        path.write_bytes(flip(bytearray(data), i))
        summary = verify_shards(shards)
        assert len(summary.problems) == 1, f"byte {i}"


@pytest.mark.parametrize("suffix", ["json", "txt"])
def test_a_damaged_sidecar_is_reported_and_the_audio_still_used(shards, suffix):
    path = shards / "shard-000000.tar"
    with tarfile.open(path) as tar:
        info = next(m for m in tar if m.name.endswith(suffix))
    path.write_bytes(flip(bytearray(path.read_bytes()), info.offset_data + 2))
    assert [(entry.item, entry.reason) for entry in verify_shards(shards).problems] == [
        (info.name.split(".")[0], "damaged_sidecar")
    ]
    assert skipped(shards) == set()


def rebuilt(shards: Path, order) -> None:
    """Write shard 0 anew with the same number of bytes, its members in another order."""
    path = shards / "shard-000000.tar"
    with tarfile.open(path) as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in tar]
    data = b"".join(member(name, payload) for name, payload in order(members))
    path.write_bytes(data + end_of_archive(len(data)))


def test_interleaved_members_are_reported(shards):
    first = rows_of(open_corpus(shards), 0)[0].id
    rebuilt(shards, lambda m: [m[0], m[3], *m[1:3], *m[4:]])
    problems = verify_shards(shards).problems
    assert (problems[0].item, problems[0].reason) == (first, "interleaved_members")


def special(name: str, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info.tobuf(tarfile.USTAR_FORMAT)


MEMBERS = {
    "unsafe_name": member("../../etc/evil.flac", b"x" * 700),
    "link": special("innocent.flac", tarfile.SYMTYPE),
    "device": special("null.flac", tarfile.CHRTYPE),
    "foreign_member": member("other.flac", b"y"),
}


@pytest.mark.parametrize("reason", MEMBERS)
@pytest.mark.parametrize("place", ["middle", "end"])
def test_members_that_do_not_belong_are_named_and_nothing_is_extracted(shards, reason, place, monkeypatch):
    """An attacker who rewrites tar, index and listing consistently is still told by the member."""
    monkeypatch.chdir(shards)
    before = sorted(shards.iterdir())
    corpus = open_corpus(shards)
    rows, path = rows_of(corpus, 0), shards / "shard-000000.tar"
    data, extra = path.read_bytes(), MEMBERS[reason]
    last = rows[-1]
    end = last.offset + last.size + len(padding(last.size))
    end += len(sidecars(corpus.utterances()[last.id]))
    if place == "end":
        path.write_bytes(data[:end] + extra + data[end:])
    else:
        insert_in_the_middle(shards, rows[2].offset - 512, extra)
    problems = {(entry.item, entry.reason) for entry in verify_shards(shards).problems}
    name = tarfile.TarInfo.frombuf(extra[:512], "utf-8", "strict").name
    assert (f"shard-000000.tar/{name}", reason) in problems
    assert problems - {(f"shard-000000.tar/{name}", reason)} <= {("shard-000000.tar", "wrong_size")}
    assert skipped(shards) == set()
    assert sorted(shards.iterdir()) == before


def insert_in_the_middle(shards: Path, at: int, extra: bytes) -> None:
    import json
    import zlib
    from dataclasses import replace

    from speechssl.data.store.index import parse_index

    tar, idx, summary = shards / "shard-000000.tar", shards / "shard-000000.idx", shards / "summary.json"
    data = tar.read_bytes()
    data = data[:at] + extra + data[at:]
    tar.write_bytes(data)
    index = parse_index(idx.read_bytes(), where="x")
    rows = [replace(row, offset=row.offset + len(extra)) if row.offset > at else row for row in index.rows]
    idx.write_bytes(replace(index, rows=rows, tar_bytes=len(data), tar_crc32=zlib.crc32(data)).to_bytes())
    listing = json.loads(summary.read_text())
    listing["shards"][0] |= {"tar_bytes": len(data), "tar_crc32": zlib.crc32(data)}
    listing["shards"][0]["idx_crc32"] = zlib.crc32(idx.read_bytes())
    summary.write_text(json.dumps(listing))


def test_garbage_between_members_and_after_the_end(shards):
    insert_in_the_middle(shards, rows_of(open_corpus(shards), 0)[2].offset - 512, b"\x55" * 512)
    assert [entry.reason for entry in verify_shards(shards).problems] == ["foreign_member"]
    insert_in_the_middle(shards, rows_of(open_corpus(shards), 0)[1].offset - 512, bytes(512))
    assert [entry.reason for entry in verify_shards(shards).problems] == ["foreign_member"] * 2
    path = shards / "shard-000001.tar"
    path.write_bytes(path.read_bytes() + bytes(512))
    assert {entry.reason for entry in verify_shards(shards).problems} == {"foreign_member", "wrong_size"}


def test_missing_and_damaged_files_are_named(shards):
    (shards / "shard-000000.tar").unlink()
    (shards / "shard-000001.idx").write_bytes(flip(bytearray((shards / "shard-000001.idx").read_bytes()), 50))
    manifest = shards / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace("tone number", "tone nimber"))
    found = {(entry.item, entry.reason) for entry in verify_shards(shards).problems if "." in entry.item}
    assert found == {
        ("shard-000000.tar", "missing_shard"),
        ("shard-000001.idx", "damaged_index"),
        ("manifest.jsonl", "damaged_manifest"),
    }
    (shards / "shard-000001.idx").unlink()
    manifest.write_text("not json\n")
    summary = verify_shards(shards)
    assert not summary.ok
    assert {entry.reason for entry in summary.problems if entry.item == "shard-000001.idx"} == {"missing_shard"}


def test_an_index_of_other_shards_and_an_unlisted_utterance(shards):
    from dataclasses import replace

    from speechssl.data.store.index import parse_index

    idx = shards / "shard-000000.idx"
    index = parse_index(idx.read_bytes(), where="x")
    idx.write_bytes(replace(index, source="other").to_bytes())
    manifest = shards / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[1:]))
    found = [(entry.item, entry.reason) for entry in verify_shards(shards).problems]
    assert ("shard-000000.idx", "damaged_index") in found
    assert (index.rows[0].id, "not_in_manifest") in found


def test_webdataset_would_have_lost_these_in_silence(shards):
    """Why we read by index: a zeroed header ends stock iteration without any error (faults.md, finding 1)."""
    path, rows = shards / "shard-000001.tar", rows_of(open_corpus(shards), 1)
    path.write_bytes(zero(bytearray(path.read_bytes()), rows[1].offset - 512, 512))
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes()), mode="r|*") as tar:
        names = {member.name.split(".")[0] for member in tar}
    assert names == {rows[0].id}
    assert len(skipped(shards)) == 1
