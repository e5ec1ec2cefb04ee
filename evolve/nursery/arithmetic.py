"""Word problems with one step and small numbers."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from evolve.nursery.coreference import NAMES
from evolve.nursery.items import Arithmetic

LARGEST = 9
"""Largest of the two numbers of an addition, and of the result and the second number of a subtraction."""

_THINGS = ("apples", "nuts", "shells", "books", "eggs", "coins", "beads", "pears")

STORIES = (
    ("+", "{name} has {x} {things} and gets {y} more. How many {things} are there?"),
    ("-", "{name} has {x} {things} and loses {y}. How many {things} are there?"),
    ("+", "{name} picks {x} {things}, then {y} others. How many {things} are there?"),
    ("-", "{name} had {x} {things}. The dog took {y}. How many {things} are there?"),
    ("+", "There were {x} {things}. {name} adds {y}. How many {things} are there?"),
    ("-", "There were {x} {things}. {name} eats {y}. How many {things} are there?"),
    ("+", "{name} owns {x} {things} and borrows {y}. How many {things} are there?"),
    ("-", "{name} owns {x} {things} and lends {y}. How many {things} are there?"),
    ("+", "{name} bought {x} {things} and found {y}. How many {things} are there?"),
    ("-", "{name} bought {x} {things} and sold {y}. How many {things} are there?"),
)
"""The stories: the sign each asks for, and its words. Additions and subtractions alternate."""


def endless(random: Random) -> Iterator[Arithmetic]:
    """Yields problems without end. Either reading of a story gives a number of at least zero."""
    while True:
        index = random.randrange(len(STORIES))
        sign, words = STORIES[index]
        right = random.randint(1, LARGEST)
        left = right + random.randint(0, LARGEST)
        question = words.format(name=random.choice(NAMES), things=random.choice(_THINGS), x=left, y=right)
        yield Arithmetic(index, question, left, right, sign)
