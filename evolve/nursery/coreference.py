"""Coreference in Winogrande's schema: sentences with a gap; the property in question decides which noun fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

NAMES = ("Mira", "Tom", "Ada", "Ben", "Lena", "Otto", "Rosa", "Finn", "Ida", "Max", "Nora", "Paul")

_FRAMES = (
    "{name} looked at the {a} and the {b}, and the ",
    "{name} saw the {a} beside the {b}, but the ",
    "{name} wrote about the {a} and the {b} because the ",
    "{name} found the {a} and then the {b}, and only the ",
    "The {a} and the {b} belong to {name}, but the ",
)


@dataclass(frozen=True)
class Coreference:
    """A sentence with a gap `_` and two nouns, one of which fits (Winogrande).

    Attributes:
        domain: Index of the property that the sentence is about.
        before: The sentence up to the gap, with a space at its end.
        after: The rest of the sentence after the gap, without the space.
        options: The two nouns.
        answer: Index of the noun that fits, 0 or 1.
    """

    domain: int
    before: str
    after: str
    options: tuple[str, str]
    answer: int

    def row(self) -> dict[str, object]:
        """Return the item in Winogrande's schema; the answer is counted from 1, as a string."""
        return {
            "sentence": f"{self.before}_ {self.after}",
            "option1": self.options[0],
            "option2": self.options[1],
            "answer": str(self.answer + 1),
        }

    def prompt_and_answer(self, chosen: int) -> tuple[str, str]:
        """Return the text with one option in the gap, and the rest of the sentence, which is scored."""
        return self.before + self.options[chosen], f" {self.after}"


@dataclass(frozen=True)
class _Domain:
    """One property: the nouns at either end of it, and the ends of sentences about them."""

    nouns: tuple[tuple[str, ...], tuple[str, ...]]
    said: tuple[tuple[str, ...], tuple[str, ...]]


def _domain(much: str, little: str, said_much: str, said_little: str) -> _Domain:
    return _Domain(
        (tuple(much.split()), tuple(little.split())),
        (tuple(said_much.split("/")), tuple(said_little.split("/"))),
    )


DOMAINS = (
    _domain(
        "wardrobe piano statue cart ladder barrel",
        "coin ring button pea stamp needle",
        "is too big for the bag./fills the whole room.",
        "is small enough for a pocket./is easy to lose.",
    ),
    _domain(
        "glass mirror vase egg bulb cup",
        "stone hammer brick anvil shovel rock",
        "breaks at once./must not be dropped.",
        "never breaks./can be dropped.",
    ),
    _domain(
        "rabbit horse hawk deer fox swallow",
        "snail turtle worm slug sloth toad",
        "runs away fast./wins every race.",
        "moves slowly./loses every race.",
    ),
    _domain(
        "oven candle fire torch stove lamp",
        "ice snow frost hail cellar well",
        "burns the hand./is far too hot.",
        "cools the hand./is far too cold.",
    ),
    _domain(
        "crown jewel palace yacht pearl throne",
        "straw twig pebble rag crumb string",
        "costs a lot of gold./is locked away.",
        "costs nothing./is thrown away.",
    ),
    _domain(
        "drum bell trumpet thunder whistle siren",
        "feather cloud moss shadow pillow mist",
        "wakes the baby./is loud.",
        "lets the baby sleep./is silent.",
    ),
    _domain(
        "honey cake plum sugar jam cherry",
        "lemon vinegar chalk salt onion ash",
        "tastes sweet./is eaten by the children.",
        "tastes bad./is left on the plate.",
    ),
    _domain(
        "river lake pond fountain harbour swamp",
        "desert road attic shelf barn roof",
        "is full of fish./makes the feet wet.",
        "is full of dust./keeps the feet dry.",
    ),
)


def endless(random: Random) -> Iterator[Coreference]:
    """Yield sentences without end. Every second one is the twin of the one before it.

    Twins differ only in the end of the sentence, so that the other noun fits: the first half alone gives no hint.
    """
    while True:
        index = random.randrange(len(DOMAINS))
        domain = DOMAINS[index]
        ends = [0, 1]
        random.shuffle(ends)
        options = (random.choice(domain.nouns[ends[0]]), random.choice(domain.nouns[ends[1]]))
        before = random.choice(_FRAMES).format(name=random.choice(NAMES), a=options[0], b=options[1])
        for answer in random.sample((0, 1), 2):
            after = random.choice(domain.said[ends[answer]])
            yield Coreference(index, before, after, options, answer)
