"""Sentences for the synthetic corpus: a small English grammar over about 120 short, common words.

In: a seed. Out: an endless stream of distinct sentences in lower case, letters and spaces only. Homophones are avoided,
so that what was said can be written in only one way.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

__all__ = ["VOCABULARY", "sentences"]

PEOPLE = ("man", "boy", "girl", "king", "cook", "friend", "doctor", "farmer", "sister", "uncle")
ANIMALS = ("dog", "cat", "fox", "pig", "duck", "frog", "bird", "rabbit")
THINGS = (
    "box",
    "cup",
    "pen",
    "map",
    "hat",
    "bag",
    "lamp",
    "book",
    "ball",
    "drum",
    "basket",
    "ladder",
    "lemon",
    "clock",
)
PLURALS = ("apples", "eggs", "plates", "stones", "flowers", "trees", "chairs")
PLACES = ("hill", "park", "shop", "lake", "tent", "farm", "river", "forest", "garden", "market")
OF_BEINGS = ("young", "happy", "hungry", "strong", "kind", "sad")
OF_THINGS = ("big", "small", "old", "red", "green", "black", "yellow", "soft")
NUMBERS = ("three", "five", "six", "seven", "ten")
DID_TO = ("took", "lost", "found", "held", "sold", "wanted", "dropped", "painted")
DID = ("sat", "ran", "slept", "jumped", "waited", "danced")
ORDERS = ("bring", "hold", "move")
WHERE = ("near", "behind", "under", "inside")
HOW = ("slowly", "again", "together", "alone")
WHEN = ("today", "tonight", "before lunch", "after dinner", "in the morning", "in summer", "on monday")
LINKS = ("and", "but", "because", "when")
WHO = ("she", "they", "we", "nobody")
OWNERS = ("the", "the", "my", "every")
GLUE = ("the", "my", "every", "is", "are", "was", "there", "who", "where", "please", "with", "to", "from", "never")

VOCABULARY: frozenset[str] = frozenset(
    word
    for group in (PEOPLE, ANIMALS, THINGS, PLURALS, PLACES, OF_BEINGS, OF_THINGS, NUMBERS, DID_TO, DID, ORDERS, WHERE,
                  HOW, WHEN, LINKS, WHO, GLUE)
    for phrase in group
    for word in phrase.split()
)  # fmt: skip
"""Every word a sentence can hold."""


class _Grammar:
    """One draw of each kind of phrase; all randomness comes from `rng`."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def pick(self, words: Sequence[str]) -> str:
        return words[self.rng.randrange(len(words))]

    def maybe(self, probability: float, phrase: Callable[[], str]) -> str:
        return phrase() if self.rng.random() < probability else ""

    def mood(self) -> str:
        return self.pick(OF_BEINGS)

    def look(self) -> str:
        return self.pick(OF_THINGS)

    def someone(self) -> str:
        if self.rng.random() < 0.2:
            return self.pick(WHO)
        return f"{self.pick(OWNERS)} {self.maybe(0.5, self.mood)} {self.pick(PEOPLE + ANIMALS)}"

    def something(self) -> str:
        if self.rng.random() < 0.3:
            return f"{self.pick(NUMBERS)} {self.maybe(0.5, self.look)} {self.pick(PLURALS)}"
        return f"{self.pick(OWNERS)} {self.maybe(0.5, self.look)} {self.pick(THINGS)}"

    def somewhere(self) -> str:
        return f"{self.pick(WHERE)} the {self.maybe(0.3, self.look)} {self.pick(PLACES)}"

    def journey(self) -> str:
        return f"{self.pick(('to', 'from'))} the {self.maybe(0.3, self.look)} {self.pick(PLACES)}"

    def when(self) -> str:
        return self.pick(WHEN)

    def action(self) -> str:
        if self.rng.random() < 0.6:
            return f"{self.maybe(0.1, lambda: 'never')} {self.pick(DID_TO)} {self.something()}"
        place = self.somewhere() if self.rng.random() < 0.5 else self.journey()
        return f"{self.pick(DID)} {self.maybe(0.5, lambda: self.pick(HOW))} {place}"

    def statement(self) -> str:
        return f"{self.someone()} {self.action()} {self.maybe(0.4, self.when)}"

    def pair(self) -> str:
        return f"{self.someone()} {self.action()} {self.pick(LINKS)} {self.someone()} {self.pick(DID)}"

    def presence(self) -> str:
        return f"there are {self.pick(NUMBERS)} {self.maybe(0.5, self.look)} {self.pick(PLURALS)} {self.somewhere()}"

    def description(self) -> str:
        being = self.pick(PEOPLE + ANIMALS)
        return f"the {being} with {self.something()} was {self.mood()} {self.maybe(0.5, self.when)}"

    def question(self) -> str:
        if self.rng.random() < 0.5:
            return f"who {self.pick(DID_TO)} {self.something()} {self.maybe(0.5, self.somewhere)}"
        return f"where is the {self.look()} {self.pick(THINGS)} from the {self.pick(PLACES)}"

    def order(self) -> str:
        return f"please {self.pick(ORDERS)} {self.something()} {self.somewhere()} {self.maybe(0.3, self.when)}"

    def sentence(self) -> str:
        kinds = (self.statement, self.pair, self.presence, self.description, self.question, self.order)
        kind = self.rng.choices(kinds, weights=(5, 2, 1, 1, 1, 1))[0]
        return " ".join(kind().split())


def sentences(seed: int) -> Iterator[str]:
    """An endless stream of distinct sentences of about 5 to 14 words; the same seed gives the same stream."""
    grammar = _Grammar(random.Random(seed))
    seen: set[str] = set()
    while True:
        sentence = grammar.sentence()
        if sentence not in seen:
            seen.add(sentence)
            yield sentence
