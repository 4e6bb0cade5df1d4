"""Players and spectrograms of the utterances that a report shows, read from the shards of the evaluation.

In: one evaluation with its resolved configuration, and the rows to show. Out: `Clips`, a player and a spectrogram for
each row whose audio is still there, and a sentence for every reason why one is not. Nothing is read from a network.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from speechssl.core.errors import AudioError, DataError
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.store.reader import Corpus, open_corpus
from speechssl.evaluation.wer.hypotheses import Row
from speechssl.reports.page.audio import player, spectrogram
from speechssl.reports.page.html import Html, el
from speechssl.reports.run.collect import Evaluation

__all__ = ["CLIP_SECONDS", "TOTAL_BYTES", "Clips", "clips_of"]

CLIP_SECONDS = 20.0
"""A longer utterance is cut: its page shows and plays the beginning."""
TOTAL_BYTES = 3_600_000
"""Characters of HTML for all sounds and pictures together, so that a page stays below 5 MB."""
_TOLERANCE = 0.02
"""Largest difference in seconds between the scored duration and that in the shards (durations are rounded)."""


@dataclass(frozen=True)
class Clips:
    """Players and spectrograms of some utterances."""

    media: dict[str, Html] = field(default_factory=dict)
    """Player and spectrogram by utterance id."""
    problems: dict[str, str] = field(default_factory=dict)
    """Why there is none, by utterance id."""
    note: str = ""
    """A note about all of them; may be empty."""


def clips_of(evaluation: Evaluation, run: Path, rows: Sequence[Row], *, budget: int = TOTAL_BYTES) -> Clips:
    """Read and draw the audio of some rows, in their order, while ``budget`` characters of HTML last.

    The configuration of the evaluation names the shards; for a copied run, its own folder is searched, too. A row that
    is there twice is drawn once.
    """
    wanted = {row["id"]: row for row in rows}
    if not wanted:
        return Clips()
    place, problem = _shards(evaluation, run)
    if place is None:
        return Clips(note=f"The recordings are not shown: {problem}")
    try:
        corpus = open_corpus(place, ids=wanted)
    except DataError as error:
        return Clips(note=f"The recordings are not shown: {error}")
    media: dict[str, Html] = {}
    problems: dict[str, str] = {}
    number = {item: index for index, item in enumerate(corpus.ids)}
    spent = crowded = cut = 0
    for item, row in wanted.items():
        if spent >= budget:
            crowded += 1
            continue
        if item not in number:
            problems[item] = "Its recording is not in the shards."
            continue
        try:
            drawn, whole = _clip(corpus, number[item], row)
        except (AudioError, DataError) as error:
            problems[item] = f"Its recording cannot be shown: {error}."
            continue
        spent += len(drawn)
        cut += not whole
        if spent > budget:
            crowded += 1
        else:
            media[item] = drawn
    return Clips(media, problems, _note(cut, crowded))


def _note(cut: int, crowded: int) -> str:
    parts = []
    if cut:
        parts.append(f"Of {_utterances(cut)} only the first {CLIP_SECONDS:g} s are played and drawn.")
    if crowded:
        parts.append(f"The recordings of {_utterances(crowded)} are left out, to keep this page small.")
    return " ".join(parts)


def _utterances(n: int) -> str:
    return f"{n} utterance{'s' * (n != 1)}"


def _shards(evaluation: Evaluation, run: Path) -> tuple[Path | None, str]:
    """Return the folder of shards that was scored, or why there is none."""
    data = evaluation.config.get("data")
    named = data.get("shards") if isinstance(data, dict) else None
    if not isinstance(named, str) or not named:
        named = str(run / "shards")
    if "://" in named:
        return None, f"they are at {named}, and a report reads no network."
    for place in (Path(named), run / named, run / Path(named).name):
        if (place / "summary.json").is_file():
            return place, ""
    return None, f"there are no shards at {named}. Where the shards are, `speechssl report` puts the recordings in."


def _clip(corpus: Corpus, number: int, row: Row) -> tuple[Html, bool]:
    """Return player and spectrogram, and whether they are of the whole utterance."""
    seconds = int(corpus.samples[number]) / SAMPLE_RATE
    scored = row["duration"]
    if scored is not None and math.fabs(scored - seconds) > _TOLERANCE:
        raise DataError(f"the shards hold {seconds:.2f} s under this id, and {scored:.2f} s were scored")
    frames = min(int(corpus.samples[number]), round(CLIP_SECONDS * SAMPLE_RATE))
    wave = corpus.read(number, 0, frames)
    shown = frames / SAMPLE_RATE
    whole = shown == seconds
    part = "" if whole else f"the first {shown:g} s of "
    picture = spectrogram(wave, label=f"Spectrogram of {part}{row['id']}: 0 to 8 kHz, {shown:.1f} seconds", width=480)
    sound = player(wave, label=f"Recording of {part}{row['id']}")
    return el("div", picture, sound, class_="clip"), whole
