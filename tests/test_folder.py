import os

import pytest

from speechssl.data.folder import list_files


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
    assert [item for item, _, _ in entries] == ["folder", "gone.wav", "link.wav", "loop"]
    assert {reason for _, reason, _ in entries} == {"link_not_followed"}
    files, entries = names(root, links=True)
    assert files == ["2.wav", "folder/1.wav", "link.wav", "note.txt"]
    assert entries == [("gone.wav", "unreadable", "rejected")]


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
