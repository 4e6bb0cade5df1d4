import os

import pytest

from speechssl.data.ingest.folder import list_files


def touch(path, content="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def names(root, *, links=False, skip=None):
    files, entries = list_files(root, skip=skip or root / "out", follow_links=links)
    return files, [(entry.item, entry.reason, entry.action) for entry in entries]


def test_everything_regular_sorted_hidden_things_left_out(tmp_path):
    for name in (
        "b/a.wav",
        "b a/c.wav",
        "B.txt",
        ".git/x.wav",
        "b/._a.wav",
        "__MACOSX/y.wav",
        "out/z.wav",
        "b/out/k.wav",
    ):
        touch(tmp_path / name)
    assert names(tmp_path) == (["B.txt", "b a/c.wav", "b/a.wav", "b/out/k.wav"], [])


def test_links_are_listed_or_followed_once(tmp_path):
    touch(tmp_path / "far" / "1.wav")
    root = tmp_path / "root"
    touch(root / "2.wav")
    (root / "link.wav").symlink_to(tmp_path / "far" / "1.wav")
    (root / "folder").symlink_to(tmp_path / "far")
    (root / "loop").symlink_to(root)
    (root / "gone.wav").symlink_to(tmp_path / "nothing.wav")
    (root / "note.txt").symlink_to(tmp_path / "far" / "1.wav")
    files, entries = names(root)
    assert files == ["2.wav"]
    assert [(item, reason) for item, reason, _ in entries] == [
        ("folder", "link_not_followed"), ("gone.wav", "broken_link"), ("link.wav", "link_not_followed"),
        ("loop", "link_not_followed"), ("note.txt", "link_not_followed"),
    ]  # fmt: skip
    files, entries = names(root, links=True)
    assert files == ["2.wav", "folder/1.wav", "link.wav", "note.txt"]
    assert entries == [("gone.wav", "broken_link", "dropped"), ("loop", "link_not_followed", "dropped")]


def test_a_link_to_itself_and_links_in_a_ring_are_listed(tmp_path):
    touch(tmp_path / "1.wav")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for links in (False, True):
        assert names(tmp_path, links=links) == (["1.wav"], [(n, "broken_link", "dropped") for n in ("a", "b", "self")])


def test_links_into_the_corpus_give_files_their_names(tmp_path):
    for name in ("blobs/0a", "blobs/0b", "blobs/0c", "all/1.wav", "all/2.wav"):
        touch(tmp_path / name)
    for name, target in (
        ("snapshots/x/clip.wav", "../../blobs/0a"), ("snapshots/x/metadata.csv", "../../blobs/0b"),
        ("train/1.wav", "../all/1.wav"), ("train/other.wav", "../all/2.wav"), ("more", "all"),
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(target)
    files, entries = names(tmp_path)
    assert files == ["all/2.wav", "blobs/0c", "snapshots/x/clip.wav", "snapshots/x/metadata.csv", "train/1.wav"]
    assert entries == [("more", "link_not_followed", "dropped"), ("train/other.wav", "link_not_followed", "dropped")]


def test_a_folder_behind_a_link_keeps_its_own_name_and_is_entered_once(tmp_path):
    touch(tmp_path / "root" / "z" / "1.wav")
    touch(tmp_path / "far" / "2.wav")
    (tmp_path / "root" / "a").symlink_to("z")
    (tmp_path / "root" / "b").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "c").symlink_to(tmp_path / "root")
    (tmp_path / "far" / "d").symlink_to(tmp_path / "far")
    files, entries = names(tmp_path / "root", links=True)
    assert files == ["b/2.wav", "z/1.wav"]
    assert [item for item, _, _ in entries] == ["a", "b/c", "b/d"]


def test_names_that_are_not_utf8_are_listed(tmp_path):
    try:
        with open(os.fsencode(tmp_path) + b"/\xff.wav", "wb"):  # noqa: PTH123
            pass
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert names(tmp_path) == ([], [("'\\udcff.wav'", "undecodable_name", "rejected")])


def test_pipes_and_our_own_outputs_are_no_corpus(tmp_path):
    os.mkfifo(tmp_path / "p.wav")
    os.mkfifo(tmp_path / "p.txt")
    for name in ("ledger.jsonl", "summary.json", "manifest.jsonl"):
        touch(tmp_path / "runs" / "manifest" / name)
    files, entries = names(tmp_path)
    assert files == []
    assert entries == [("p.wav", "unreadable", "rejected"), ("runs/manifest/", "own_output", "dropped")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_closed_folder_is_listed(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    assert names(tmp_path) == ([], [("closed/", "unreadable_folder", "rejected")])
