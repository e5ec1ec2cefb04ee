"""Arithmetic in GSM8K's schema: word problems with one step and small numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from evolve.nursery.coreference import NAMES

LARGEST = 9
"""Largest second number of a calculation, and largest difference between its two numbers."""

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
"""The stories: the sign of each and its words. Additions and subtractions alternate."""


@dataclass(frozen=True)
class Arithmetic:
    """A word problem with one step (GSM8K).

    Attributes:
        story: Index of the story.
        question: The problem in words.
        left: First number of the calculation.
        right: Second number.
        sign: `+` or `-`, as the story means it.
    """

    story: int
    question: str
    left: int
    right: int
    sign: str

    def solution(self, sign: str) -> str:
        """Return the worked answer in GSM8K's format for a sign, right or wrong."""
        result = self.left + self.right if sign == "+" else self.left - self.right
        return f"{self.left} {sign} {self.right} = {result}\n#### {result}"

    def row(self) -> dict[str, object]:
        """Return the item in GSM8K's schema."""
        return {"question": self.question, "answer": self.solution(self.sign)}

    def prompt_and_answer(self, sign: str) -> tuple[str, str]:
        """Return lm-eval's prompt of the problem, and the worked answer for a sign."""
        return f"Question: {self.question}\nAnswer:", f" {self.solution(sign)}"


def endless(random: Random) -> Iterator[Arithmetic]:
    """Yield problems without end. The result is at least 0 with either sign."""
    while True:
        index = random.randrange(len(STORIES))
        sign, words = STORIES[index]
        right = random.randint(1, LARGEST)
        left = right + random.randint(0, LARGEST)
        question = words.format(name=random.choice(NAMES), things=random.choice(_THINGS), x=left, y=right)
        yield Arithmetic(index, question, left, right, sign)
