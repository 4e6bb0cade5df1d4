"""The ledger: every entry survives, whatever became of the last line."""

from speechssl.core.ledger import Entry, Ledger, read_ledger

FIRST, SECOND = Entry("shard", "größe", "empty_file", "0 bytes"), Entry("shard", "b", "not_audio")


def test_H6_a_ledger_cut_anywhere_keeps_what_comes_later(tmp_path):
    path = tmp_path / "ledger.jsonl"
    Ledger(path).extend([FIRST, FIRST])
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        before = read_ledger(path)
        Ledger(path).add(SECOND)
        assert read_ledger(path) == [*before, SECOND], length
        assert before == [FIRST] * whole[: length + 1].count(b"\n"), length
