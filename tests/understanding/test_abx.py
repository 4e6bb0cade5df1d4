"""ABX: against its definition and against fastabx; planted phones, chance, and what cannot be measured."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from speechssl.cli.main import main
from speechssl.config import AbxConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.understanding.abx import run as run_module
from speechssl.understanding.abx.distances import pair_distances, warped
from speechssl.understanding.abx.items import frames_of
from speechssl.understanding.abx.run import run_abx
from speechssl.understanding.abx.triplets import Cells, make_blocks
from speechssl.understanding.alignment import Item, item_lines, make_items, read_alignment, read_items
from tests.oracles.abx import abx, angular, warping

MODES = [(across, anything) for across in ("within", "across") for anything in (False, True)]


def some_items(count, *, speakers=3, phones="abc", contexts="pq", dim=4, seed=0):
    """Return items with random labels, and frames [F, dim] in which phones and speakers differ a little."""
    random = np.random.default_rng(seed)
    items, pieces = [], []
    for number in range(count):
        phone, speaker = random.integers(len(phones)), random.integers(speakers)
        before, after = random.choice(list(contexts), 2)
        length = int(random.integers(1, 6))
        items.append(Item(f"u{number}", 0.0, 1.0, phones[phone], before, after, f"s{speaker}"))
        pieces.append(random.normal(size=(length, dim)) + 0.7 * np.eye(dim)[phone] + 0.5 * np.eye(dim)[-1] * speaker)
    return items, [torch.tensor(piece, dtype=torch.float32) for piece in pieces]


def measured(items, pieces, mode, anything, *, distance="angular", **limits):
    lengths = np.array([len(piece) for piece in pieces])
    starts = np.cumsum([0, *lengths[:-1]])
    limits = {"max_items": 99, "max_speakers": 99, "seed": 1, **limits}
    cells = Cells(make_blocks(items, mode, any_context=anything, **limits), any_context=anything)
    found = pair_distances(torch.cat(pieces), starts, lengths, cells.pairs, distance)
    return cells.score(found, resamples=200, seed=1), cells


# ------------------------------------------------------------------------------------------------- definition


@pytest.mark.parametrize(("mode", "anything"), MODES)
def test_the_error_is_that_of_the_definition(mode, anything):
    items, pieces = some_items(44)
    found, _ = measured(items, pieces, mode, anything)
    frames = [piece.double().tolist() for piece in pieces]
    assert found.error == pytest.approx(abx(items, frames, across=mode == "across", any_context=anything), abs=1e-12)
    low, high = found.interval
    assert low < found.error < high


def test_ties_of_codes_count_one_half_and_paths_are_as_long_as_by_the_definition():
    """One-hot frames: distances are exactly equal, and so are sums of different paths."""
    items, pieces = some_items(36, dim=3, seed=2)
    pieces = [torch.nn.functional.one_hot(piece.argmax(1), 3).float() for piece in pieces]
    for mode, anything in MODES:
        found, _ = measured(items, pieces, mode, anything)
        expected = abx(items, [p.tolist() for p in pieces], across=mode == "across", any_context=anything)
        assert found.error == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["angular", "euclidean"])
def test_distances_of_sequences_are_those_of_the_recursion(name, monkeypatch):
    monkeypatch.setattr("speechssl.understanding.abx.distances.CHUNK_BYTES", 4_000)  # many chunks
    _, pieces = some_items(9)
    lengths = np.array([len(piece) for piece in pieces])
    pairs = np.array([(i, j) for i in range(9) for j in range(9)])
    found = pair_distances(torch.cat(pieces), np.cumsum([0, *lengths[:-1]]), lengths, pairs, name)
    frames = [piece.double().tolist() for piece in pieces]
    distance = angular if name == "angular" else (lambda u, v: float(np.linalg.norm(np.subtract(u, v))))
    assert found == pytest.approx([warping(frames[i], frames[j], distance) for i, j in pairs], abs=1e-7)
    # What lies beyond the lengths changes nothing.
    costs = torch.rand(2, 4, 5)
    cut = warped(costs, torch.tensor([2, 4]), torch.tensor([5, 3]))
    costs[0, 2:], costs[1, :, 3:] = float("nan"), float("inf")
    assert torch.equal(warped(costs, torch.tensor([2, 4]), torch.tensor([5, 3])), cut)


def test_limits_bound_the_items_and_the_speakers_and_follow_the_seed():
    items, pieces = some_items(300, speakers=5, contexts="p")
    _, cells = measured(items, pieces, "across", False, max_items=4, max_speakers=2)
    for block in cells.blocks:
        assert len(block.x) <= 4
        assert max(np.diff(block.first, append=len(block.targets))) <= 4
        assert len({b.x[0] for b in cells.blocks if (b.speaker, b.phone) == (block.speaker, block.phone)}) <= 2
    assert cells.counts["speakers"] == 5
    mixed = np.random.default_rng(1).permutation(len(items))
    _, again = measured(
        [items[n] for n in mixed], [pieces[n] for n in mixed], "across", False, max_items=4, max_speakers=2
    )
    drawn, drawn_again = ({items[n] for n in pairs} for pairs in (cells.pairs.ravel(), mixed[again.pairs.ravel()]))
    assert drawn == drawn_again
    _, other = measured(items, pieces, "across", False, max_items=4, max_speakers=2, seed=2)
    assert {items[n] for n in other.pairs.ravel()} != drawn


def test_frames_whose_centre_is_in_the_item():
    assert frames_of(0.0, 0.05, hop=320, receptive=320) == (0, 3)  # centres at 10, 30, 50 ms
    assert frames_of(0.0101, 0.0499, hop=320, receptive=320) == (1, 2)
    assert frames_of(0.09, 0.11, hop=320, receptive=320) == (4, 6)
    assert frames_of(0.0, 0.05, hop=320, receptive=400) == (0, 2)  # 12.5, 32.5, 52.5 ms


# ---------------------------------------------------------------------------------------------------- fastabx


@pytest.mark.parametrize(("mode", "anything"), MODES)
@pytest.mark.parametrize("distance", ["angular", "euclidean"])
def test_the_error_is_that_of_fastabx(mode, anything, distance, tmp_path):
    fastabx = pytest.importorskip("fastabx", reason="fastabx is not installed (it needs Python 3.12)")
    random = np.random.default_rng(3)
    items, pieces = [], []
    for number in range(120):
        start = round(float(random.uniform(0, 1.6)), 3)
        end = round(start + float(random.uniform(0.04, 0.25)), 3)
        labels = [str(random.choice(list("abc"))), *(str(text) for text in random.choice(list("pq"), 2))]
        item = Item(f"u{number % 7}", start, end, *labels, f"s{number % 4}")
        items.append(item)
    frames = {f"u{number}": torch.tensor(random.normal(size=(95, 16)), dtype=torch.float32) for number in range(7)}
    for name, array in frames.items():
        torch.save(array, tmp_path / f"{name}.pt")
    for item in items:
        first, end = frames_of(item.start, item.end, hop=320, receptive=320)
        pieces.append(frames[item.file][first:end])
    (tmp_path / "x.item").write_text(item_lines(items))
    found, _ = measured(read_items(tmp_path / "x.item"), pieces, mode, anything, distance=distance)
    expected = fastabx.zerospeech_abx(
        tmp_path / "x.item", tmp_path, max_size_group=None, max_x_across=None, speaker=mode, distance=distance,
        context="any" if anything else "within", frequency=50, device="cpu", progress=False,
    )  # fmt: skip
    assert found.error == pytest.approx(expected, abs=1e-6)


# -------------------------------------------------------------------------------------------------- from files


class Frames:
    """Two layers: noise, and the letter of each 0.1 s of the utterance, which its samples spell."""

    name, identity, layers, hop, receptive, dim = "planted", "planted", (0, 1), 320, 320, 6

    def __call__(self, waves):
        found = []
        for wave in waves:
            letters = np.round(wave[160 : len(wave) // 320 * 320 : 320] * 100).astype(int)
            noise = np.random.default_rng(int(1e6 * np.abs(wave).sum())).normal(size=(len(letters), 6))
            found.append(torch.tensor(np.stack([noise, np.eye(6)[letters]]), dtype=torch.float32))
        return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Utterances of 12 phones of 0.1 s by six speakers; a silence in the middle."""
    folder = tmp_path_factory.mktemp("abx")
    random = np.random.default_rng(0)
    rows, lines = [], []
    for number in range(36):
        spelled = random.integers(0, 5, 12)
        soundfile.write(folder / f"u{number}.wav", np.repeat(spelled, 1_600) / 100, 16_000)
        rows.append({
            "id": f"u{number}", "path": f"u{number}.wav", "duration": 1.2, "sample_rate": 16_000, "channels": 1,
            "speaker": f"s {number % 6}",
        })  # fmt: skip
        labels = ["SIL" if place == 6 else "abcde"[letter] for place, letter in enumerate(spelled)]
        lines += [f"u{number} 1 {place / 10} 0.1 {label}" for place, label in enumerate(labels)]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "phones.ctm").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def planted(monkeypatch):
    monkeypatch.setattr(run_module, "open_extractor", lambda *args, **kwargs: Frames())


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize(("span", "context"), [("triphone", "within"), ("phone", "any")])
def test_planted_phones_have_no_error_and_noise_has_chance(corpus, tmp_path, span, context):
    cfg = AbxConfig(alignment=str(corpus / "phones.ctm"), span=span, context=context, max_items=4)
    found = run_abx("planted", str(corpus), tmp_path, cfg)
    for mode in ("within", "across"):
        noise, letters = found.layers[0][mode], found.layers[1][mode]
        # Warping cannot tell "aab" from "abb": such triphones are half an error.
        assert letters.error == 0 if span == "phone" else letters.error < 0.1
        assert letters.interval == (0, 0) or span == "triphone"
        low, high = noise.interval
        assert low < 0.5 < high
        assert high - low < (0.3 if span == "phone" else 1)
    text = (tmp_path / "abx.txt").read_text()
    assert f"{span}s, {context} context, angular distance; chance is 50" in text
    assert "at most 4 items of a phone, context and speaker" in text
    about = json.loads((tmp_path / "abx.json").read_text())
    assert about["layers"][1]["within"]["error"] == found.layers[1]["within"].error
    assert about["counts"]["across"]["speakers"] == 6
    # The items that were written give the same result; the frames are not computed again.
    items = read_items(tmp_path / "items.item")
    assert {item.speaker for item in items} == {f"s_{n}" for n in range(6)}
    assert {item.label for item in items} == set("abcde")
    assert ("sil" in {item.before for item in items}) == (context == "any")
    cfg = replace(cfg, alignment=str(tmp_path / "items.item"))
    (tmp_path / "again").mkdir()
    (tmp_path / "features").rename(tmp_path / "again" / "features")
    before = (tmp_path / "again/features/part-00000.safetensors").stat().st_mtime_ns
    again = run_abx("planted", str(corpus), tmp_path / "again", cfg)
    assert again.counts == found.counts
    assert again.layers[1] == found.layers[1]
    assert (tmp_path / "again/features/part-00000.safetensors").stat().st_mtime_ns == before


def test_neighbours_touch_and_triphones_span_all_three(corpus):
    alignment = read_alignment(corpus / "phones.ctm")
    items = make_items(alignment, {"u0": "s"}, silences=("sil",))
    assert {item.file for item in items} == {"u0"}
    assert len(items) == 4 + 3  # six phones, silence, five phones
    wide = make_items(alignment, {"u0": "s"}, silences=("sil",), triphones=True)
    assert [w.start for w in wide] == pytest.approx([i.start - 0.1 for i in items])
    assert [w.end for w in wide] == pytest.approx([i.end + 0.1 for i in items])
    gone = {"u0": [each for each in alignment["u0"] if each.label != "SIL"]}
    assert make_items(gone, {"u0": "s"}) == items
    every = make_items(gone, {"u0": "s"}, alone=True)
    assert [(item.label, item.start) for item in every] == [(each.label, each.start) for each in gone["u0"]]
    assert [item for item in every if "sil" not in item] == items
    assert [(item.before == "sil", item.after == "sil") for item in (every[0], *every[5:7], every[-1])] == [
        (True, False), (False, True), (True, False), (False, True)
    ]  # fmt: skip


@pytest.mark.usefixtures("planted")
def test_what_cannot_be_measured_is_said(corpus, tmp_path):
    alignment = str(corpus / "phones.ctm")
    items = make_items(read_alignment(corpus / "phones.ctm"), {f"u{n}": f"s{n % 6}" for n in range(36)})

    def refused(said, *, chosen=None, error=DataError, **changes):
        if chosen is not None:
            (tmp_path / "x.item").write_text(item_lines(chosen))
            changes["alignment"] = str(tmp_path / "x.item")
        with pytest.raises(error, match=said):
            run_abx("planted", str(corpus), tmp_path / "out", AbxConfig(**changes))
        assert not (tmp_path / "out").exists()

    refused("abx needs --alignment FILE", error=ConfigError)
    refused("needs --span phone", error=ConfigError, alignment=alignment, context="any")
    refused("give 2 or more", error=ConfigError, alignment=alignment, max_items=1)
    refused("0 items, 0 phones, 0 speakers: there is no triplet within", chosen=[])
    refused("1 speakers: there is no triplet across speakers; use --speakers within",
            chosen=[item for item in items if item.speaker == "s0"])  # fmt: skip
    apart = [item for item in items if item.speaker == ("s0" if item.label in "ab" else "s1")]
    refused("2 speakers: there is no triplet across speakers. One needs", chosen=apart)
    refused("e of u0 lies at 0.300 to 1.400 s; the recording lasts 1.200 s",
            chosen=[*items, items[0]._replace(start=0.3, end=1.4, label="e")])  # fmt: skip
    refused("none of its utterances is in the data", chosen=[items[0]._replace(file="elsewhere")])
    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("speaker")
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="u0 has no speaker: add the field"):
        run_abx("planted", str(tmp_path), tmp_path / "out", AbxConfig(alignment=alignment))


def test_one_speaker_from_the_command_line(corpus, tmp_path, capsys):
    (tmp_path / "ids.txt").write_text("".join(f"u{number}\n" for number in range(0, 36, 6)))
    words = ["abx", "mfcc", str(corpus), str(tmp_path / "o"), "--alignment", str(corpus / "phones.ctm")]
    words += ["--ids", str(tmp_path / "ids.txt"), "--span", "phone", "--context", "any", "--stack", "1"]
    assert main(words) == 1
    assert "use --speakers within" in capsys.readouterr().err
    assert main([*words, "--speakers", "within"]) == 0
    out = capsys.readouterr().out
    assert "within: 20 cells" in out
    assert out.splitlines()[-1].split()[0] == "0"
    assert out.splitlines()[-1].split()[-1] == "–"  # no interval over one speaker
