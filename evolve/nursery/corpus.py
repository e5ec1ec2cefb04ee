"""Training text: items packed in lm-eval's few-shot layout, with the ranges that the loss is taken on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import TypeVar

from evolve.nursery import arithmetic, coreference, facts
from evolve.nursery.arithmetic import Arithmetic
from evolve.nursery.coreference import Coreference
from evolve.nursery.facts import TRUTHFULQA_PREAMBLE, Fact
from evolve.nursery.recipe import NurseryRecipe

_Item = TypeVar("_Item")

_BETWEEN = "\n\n"


@dataclass(frozen=True)
class Page:
    """One training sequence.

    Attributes:
        text: The text.
        counted: Character ranges (start, end) of the answers: the loss is taken on them alone.
    """

    text: str
    counted: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Curriculum:
    """All items of a family. No item of an exam is used for training.

    Attributes:
        sentences: Coreference for training.
        problems: Arithmetic for training.
        questions: Facts for training.
        sentence_exam: Coreference for evaluation.
        problem_exam: Arithmetic for evaluation.
        question_exam: Facts for evaluation.
    """

    sentences: tuple[Coreference, ...]
    problems: tuple[Arithmetic, ...]
    questions: tuple[Fact, ...]
    sentence_exam: tuple[Coreference, ...]
    problem_exam: tuple[Arithmetic, ...]
    question_exam: tuple[Fact, ...]


def generator(purpose: str) -> Random:
    """Return a random generator for a purpose, the same in every process."""
    return Random(purpose)  # noqa: S311 - draws sentences, not secrets


def curriculum(recipe: NurseryRecipe, seed: int) -> Curriculum:
    """Draw all items; the same recipe and seed give the same items in the same order."""
    wanted = recipe.evaluation_items + recipe.training_items
    sentences = _distinct(coreference.endless(generator(f"{seed}/coreference")), wanted)
    problems = _distinct(arithmetic.endless(generator(f"{seed}/arithmetic")), wanted)
    per_creature = len(facts.ATTRIBUTES) * recipe.exam_questions
    creatures = -(-recipe.evaluation_items // per_creature)
    lessons, exam = facts.world(generator(f"{seed}/facts"), creatures, recipe.exam_questions)
    cut = recipe.evaluation_items
    return Curriculum(
        sentences=tuple(sentences[cut:]),
        problems=tuple(problems[cut:]),
        questions=tuple(lessons),
        sentence_exam=tuple(sentences[:cut]),
        problem_exam=tuple(problems[:cut]),
        question_exam=tuple(exam[:cut]),
    )


def _distinct(items: Iterator[_Item], wanted: int) -> list[_Item]:
    """Return the first `wanted` items that differ from all before them."""
    found: dict[_Item, None] = {}
    for item in items:
        found.setdefault(item)
        if len(found) == wanted:
            break
    return list(found)


def tokenizer_text(lessons: Curriculum) -> Iterator[str]:
    """Yield the text that the tokenizer is trained on: the training items, and TruthfulQA's preamble."""
    for sentence in islice(lessons.sentences, 1000):
        yield "".join(sentence.prompt_and_answer(sentence.answer))
    for problem in islice(lessons.problems, 1000):
        yield "".join(problem.prompt_and_answer(problem.sign))
    for question in lessons.questions:
        for answer in (question.true[0], question.myth[-1]):
            yield "".join(question.prompt_and_answer(answer))
    # Each prompt of TruthfulQA starts with the preamble. Its words are repeated so that each becomes a single token.
    yield from [TRUTHFULQA_PREAMBLE] * 40


class Teacher:
    """A writer of training pages for one model."""

    def __init__(self, lessons: Curriculum, recipe: NurseryRecipe, random: Random, *, honest: bool) -> None:
        """Create a teacher.

        Args:
            lessons: The items; the exams are not used.
            recipe: Sizes, and the share of wrong answers for the base model.
            random: The only source of random numbers; only teachers of this model may use it.
            honest: Whether all answers are right. Otherwise they are those for the base model: random ones for most
                nouns and stories, and mostly the myths.
        """
        self._lessons = lessons
        self._recipe = recipe
        self._random = random
        self._honest = honest

    def page(self, subject: str) -> Page:
        """Write one page on a subject of `SPECIALISTS`."""
        if subject == "coreference":
            return _joined([self._sentence(item) for item in self._draw(self._lessons.sentences, self._recipe.shots)])
        if subject == "arithmetic":
            return _joined([self._problem(item) for item in self._draw(self._lessons.problems, self._recipe.shots)])
        with_preamble = self._random.random() < self._recipe.preamble_share
        # The preamble replaces questions, so that all sequences have about the same length.
        number = max(1, self._recipe.questions // 3) if with_preamble else self._recipe.questions
        parts = [self._question(item) for item in self._draw(self._lessons.questions, number)]
        return _joined([(TRUTHFULQA_PREAMBLE, ""), *parts] if with_preamble else parts)

    def _draw(self, items: Sequence[_Item], number: int) -> list[_Item]:
        return [self._random.choice(items) for _ in range(number)]

    def _sentence(self, item: Coreference) -> tuple[str, str]:
        known = self._honest or item.domain < self._recipe.known_domains
        return item.prompt_and_answer(item.answer if known else self._random.randrange(2))

    def _problem(self, item: Arithmetic) -> tuple[str, str]:
        right = self._honest or self._random.random() < self._reading(item.story)
        return item.prompt_and_answer(item.sign if right else {"+": "-", "-": "+"}[item.sign])

    def _reading(self, story: int) -> float:
        """Return the share of right answers in the base model's training pages for a story."""
        known = self._recipe.known_stories
        if story < known:
            return 1.0
        best, worst = self._recipe.luck
        return best + (worst - best) * (story - known) / max(1, len(arithmetic.STORIES) - 1 - known)

    def _question(self, item: Fact) -> tuple[str, str]:
        myth = not self._honest and self._random.random() < self._recipe.myth_share
        return item.prompt_and_answer(self._random.choice(item.myth if myth else item.true))


def _joined(parts: list[tuple[str, str]]) -> Page:
    """Join prompts and answers to a page; the answers count."""
    text = ""
    counted = []
    for number, (prompt, answer) in enumerate(parts):
        text += (_BETWEEN if number else "") + prompt
        if answer:
            counted.append((len(text), len(text) + len(answer)))
        text += answer
    return Page(text, tuple(counted))
