import base64
import html.parser
import io
import re
import shutil

import pytest
import soundfile

from speechssl.evaluation.wer.wer import write_wer
from speechssl.reports.run import clips as module
from speechssl.reports.run.build import build_report
from speechssl.reports.run.clips import CLIP_SECONDS, TOTAL_BYTES, clips_of
from speechssl.reports.run.collect import collect
from tests.support.chirps import chirp
from tests.support.fake_sound import add_sound

ROWS = [
    {"id": f"u{i}", "ref": "one two three", "hyp": f"one {'two' if i % 2 else 'too'}", "duration": 1.0 + i / 4}
    for i in range(6)
]


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    handle_startendtag = handle_starttag

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    write_wer(folder / "evaluate", ROWS, {"split": "test"})
    add_sound(folder / "evaluate", ROWS, folder / "audio")
    return folder


def clips(folder, rows=ROWS, **limits):
    (evaluation,) = collect(folder).evaluations
    wanted = {row["id"] for row in rows}
    return clips_of(evaluation, folder, [row for row in evaluation.rows if row["id"] in wanted], **limits)


def test_the_sound_of_each_utterance_is_its_own(run):
    found = clips(run)
    assert list(found.media) == [row["id"] for row in ROWS] and not found.problems and not found.note
    for i, row in enumerate(ROWS):
        tags = Tags(found.media[row["id"]])
        (audio,), (image,) = tags.all("audio"), tags.all("img")
        data = base64.b64decode(audio["src"].partition(",")[2])
        heard, rate = soundfile.read(io.BytesIO(data), dtype="float32")
        said = chirp(i, row["duration"])
        assert rate == 16_000 and len(heard) == len(said)
        assert ((heard - said) ** 2).mean() < 0.05 * (said**2).mean()
        assert row["id"] in audio["aria-label"] and row["id"] in image["alt"]


def test_the_page_has_players_and_spectrograms_once_each(run):
    page = Tags(build_report(run).read_text(encoding="utf-8"))
    assert len(page.all("audio")) == len(page.all("img")) == len(ROWS)
    assert {a["aria-label"] for a in page.all("audio")} == {f"Recording of {row['id']}" for row in ROWS}
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv"))
    assert "media-src data:" in policy and "img-src data:" in policy and "default-src 'none'" in policy


def test_a_page_with_sound_is_a_function_of_the_folder(run, tmp_path):
    texts = [re.sub(r'<p class="faint date">.*?</p>', "", build_report(run, tmp_path / f"{i}.html").read_text("utf-8"))
             for i in range(2)]  # fmt: skip
    assert texts[0] == texts[1] and texts[0].count("<audio") == len(ROWS)


def test_shards_that_are_gone_are_said_to_be(run):
    shutil.rmtree(run / "audio")
    found = clips(run)
    assert not found.media and "there are no shards at" in found.note and str(run / "audio") in found.note
    page = build_report(run).read_text(encoding="utf-8")
    assert "there are no shards at" in page and "<audio" not in page


def test_a_moved_run_finds_its_own_shards(run, tmp_path):
    run.rename(tmp_path / "elsewhere")
    assert len(clips(tmp_path / "elsewhere").media) == len(ROWS)


def test_shards_on_a_network_are_left_alone(run):
    config = run / "evaluate" / "config.toml"
    config.write_text('[data]\nshards = "https://example.invalid/shards"\n', encoding="utf-8")
    found = clips(run)
    assert not found.media and "a report reads no network" in found.note


def test_no_configuration_means_the_shards_of_the_run(run):
    (run / "evaluate" / "config.toml").unlink()
    assert f"no shards at {run / 'shards'}" in clips(run).note
    shutil.copytree(run / "audio", run / "shards")
    assert len(clips(run).media) == len(ROWS)


def test_other_audio_under_the_same_id_is_not_shown(run):
    rows = [{**row, "duration": 9.0} if row["id"] == "u3" else row for row in ROWS]
    write_wer(run / "evaluate", rows, {"split": "test"})
    found = clips(run)
    assert set(found.media) == {row["id"] for row in ROWS} - {"u3"}
    assert "1.75 s under this id, and 9.00 s were scored" in found.problems["u3"]
    assert "1.75 s under this id" in build_report(run).read_text(encoding="utf-8")


def test_an_utterance_that_is_not_in_the_shards(run):
    write_wer(run / "evaluate", [*ROWS, {"id": "new", "ref": "a", "hyp": "b"}], {"split": "test"})
    found = clips(run, [*ROWS, {"id": "new"}])
    assert found.problems == {"new": "Its recording is not in the shards."} and len(found.media) == len(ROWS)


def test_no_utterance_is_in_the_shards(run):
    write_wer(run / "evaluate", [{"id": "new", "ref": "a", "hyp": "b"}], {"split": "test"})
    assert "none of the 1 listed ids is in these shards" in clips(run, [{"id": "new"}]).note


def test_damaged_audio_is_said_to_be(run):
    (tar,) = (run / "audio").glob("*.tar")
    data = bytearray(tar.read_bytes())
    at = data.index(b"fLaC")
    data[at + 200] ^= 0xFF
    tar.write_bytes(data)
    found = clips(run)
    assert len(found.media) == len(ROWS) - 1
    assert [problem for problem in found.problems.values() if "cannot be shown" in problem]


def test_damaged_shards_are_said_to_be(run):
    (run / "audio" / "summary.json").write_text("{")
    found = clips(run)
    assert not found.media and found.note.startswith("The recordings are not shown: ")


def test_a_long_utterance_is_cut_and_said_to_be(tmp_path):
    rows = [{"id": "long", "ref": "a b", "hyp": "a", "duration": CLIP_SECONDS + 5}]
    write_wer(tmp_path / "evaluate", rows)
    add_sound(tmp_path / "evaluate", rows, tmp_path / "audio")
    found = clips(tmp_path, rows)
    assert "Of 1 utterance only the first 20 s are played and drawn." in found.note
    audio = Tags(found.media["long"]).all("audio")[0]
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(audio["src"].partition(",")[2])))
    assert len(heard) / rate == CLIP_SECONDS and "the first 20 s of long" in audio["aria-label"]


def test_room_runs_out(run):
    each = len(clips(run).media["u0"])
    found = clips(run, budget=int(2.5 * each))
    assert 1 <= len(found.media) <= 2 and next(iter(found.media)) == "u0"
    assert f"The recordings of {len(ROWS) - len(found.media)} utterances are left out" in found.note
    assert sum(map(len, found.media.values())) <= 2.5 * each


def test_the_worst_page_stays_below_five_megabytes(tmp_path, monkeypatch):
    rows = [{"id": f"u{i:02d}", "ref": "a b c d " * 60, "hyp": "x " * 240, "duration": 21.0} for i in range(8)]
    write_wer(tmp_path / "evaluate", rows)
    add_sound(tmp_path / "evaluate", rows, tmp_path / "audio")
    monkeypatch.setattr(module, "player", lambda *_, label: module.el("p", "x" * 900_000, title=label))  # FLAC of noise
    page = build_report(tmp_path).read_text(encoding="utf-8")
    assert 2_500_000 < len(page.encode()) < 5_000_000 and "are left out, to keep this page small" in page
    assert TOTAL_BYTES < 4_000_000


def test_nothing_to_show():
    assert clips_of(None, None, []) == module.Clips()
