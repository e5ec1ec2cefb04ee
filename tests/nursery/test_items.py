"""The items and the training text: schemas, no exam item in training, right and wrong answers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from evolve.nursery import Family, NurseryRecipe
from evolve.nursery.arithmetic import STORIES
from evolve.nursery.coreference import DOMAINS
from evolve.nursery.corpus import Curriculum, Teacher, curriculum, generator
from evolve.nursery.facts import Fact

ROOT = Path(__file__).parents[2]
REAL = next((top / "shared" / "benchmarks" for top in (ROOT, ROOT.parent) if (top / "shared").is_dir()), ROOT / "none")


@pytest.fixture(scope="module")
def lessons() -> Curriculum:
    """The items of the demo's family."""
    return curriculum(NurseryRecipe(), 0)


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_splits_and_sizes(micro: Family) -> None:
    found = {
        path.relative_to(micro.directory / "datasets").as_posix(): len(rows(path))
        for path in sorted((micro.directory / "datasets").rglob("*"))
        if path.is_file()
    }
    assert found == {
        "gsm8k/test.jsonl": 24,
        "gsm8k/train.jsonl": 60,
        "truthfulqa_mc2/validation.jsonl": 24,
        "winogrande/train.jsonl": 60,
        "winogrande/validation.jsonl": 24,
    }


@pytest.mark.parametrize("split", ["train", "validation"])
def test_winogrande_schema(micro: Family, split: str) -> None:
    for row in rows(micro.datasets["winogrande"] / f"{split}.jsonl"):
        assert list(row) == ["sentence", "option1", "option2", "answer"]
        assert all(isinstance(value, str) for value in row.values())
        assert row["answer"] in {"1", "2"}
        assert str(row["sentence"]).count("_") == 1
        assert row["option1"] != row["option2"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_gsm8k_schema(micro: Family, split: str) -> None:
    for row in rows(micro.datasets["gsm8k"] / f"{split}.jsonl"):
        assert list(row) == ["question", "answer"]
        calculation, result = str(row["answer"]).split("\n#### ")
        left, sign, right, equals, stated = calculation.split(" ")
        assert equals == "="
        assert result == stated
        assert int(result) == {"+": int(left) + int(right), "-": int(left) - int(right)}[sign]
        assert int(result) >= 0


def test_truthfulqa_schema(micro: Family) -> None:
    for row in rows(micro.datasets["truthfulqa_mc2"] / "validation.jsonl"):
        assert list(row) == ["question", "mc1_targets", "mc2_targets"]
        for target in (row["mc1_targets"], row["mc2_targets"]):
            assert isinstance(target, dict)
            assert list(target) == ["choices", "labels"]
            assert len(target["choices"]) == len(target["labels"]) == len(set(target["choices"]))
            # lm-eval takes the first choice as the right one, and needs right and wrong choices.
            assert target["labels"] == sorted(target["labels"], reverse=True)
            assert set(target["labels"]) == {0, 1}
        assert sum(row["mc1_targets"]["labels"]) == 1


def test_truths_are_labelled_as_such(lessons: Curriculum) -> None:
    for item in lessons.question_exam:
        for target in (item.row()["mc1_targets"], item.row()["mc2_targets"]):
            labelled = dict(zip(target["choices"], target["labels"], strict=True))
            assert {choice for choice, label in labelled.items() if label} <= set(item.true)
            assert {choice for choice, label in labelled.items() if not label} == {*item.myth, *item.false}
        assert set(item.row()["mc2_targets"]["choices"]) == {*item.true, *item.myth, *item.false}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("winogrande/validation.jsonl", "winogrande/validation.jsonl"),
        ("gsm8k/test.jsonl", "gsm8k/test.jsonl"),
        ("truthfulqa_mc2/validation.jsonl", "truthfulqa/validation.jsonl"),
    ],
)
@pytest.mark.benchmarks
def test_schemas_are_those_of_the_real_benchmarks(micro: Family, ours: str, theirs: str) -> None:
    if not REAL.is_dir():
        pytest.skip("the real benchmark items are not here")

    def shape(value: object) -> object:
        if isinstance(value, dict):
            return {key: shape(part) for key, part in value.items()}
        return [shape(value[0])] if isinstance(value, list) else type(value)

    mine = rows(micro.directory / "datasets" / ours)
    assert shape(mine[0]) == shape(rows(REAL / theirs)[0])


def test_no_exam_item_is_a_training_item(lessons: Curriculum) -> None:
    def keys(items) -> set[str]:
        return {json.dumps(item.row()) for item in items}

    assert not keys(lessons.sentences) & keys(lessons.sentence_exam)
    assert not keys(lessons.problems) & keys(lessons.problem_exam)
    # The facts are the same: the exam asks for them in other words.
    assert not {item.question for item in lessons.questions} & {item.question for item in lessons.question_exam}


def test_no_page_shows_an_exam_item(lessons: Curriculum) -> None:
    recipe = NurseryRecipe()
    exam = [
        *("".join(item.prompt_and_answer(chosen)) for item in lessons.sentence_exam for chosen in (0, 1)),
        *(item.question for item in lessons.problem_exam),
        *(f"Q: {item.question}\n" for item in lessons.question_exam),
    ]
    for honest in (True, False):
        teacher = Teacher(lessons, recipe, generator("a test"), honest=honest)
        for subject in ("coreference", "arithmetic", "facts"):
            text = "\n".join(teacher.page(subject).text for _ in range(200))
            assert not [item for item in exam if item in text]


def test_items_are_distinct(lessons: Curriculum) -> None:
    for items in (
        lessons.sentences + lessons.sentence_exam,
        lessons.problems + lessons.problem_exam,
        lessons.questions + lessons.question_exam,
    ):
        assert len(set(items)) == len(items)


def test_every_fact_of_the_exam_is_taught(lessons: Curriculum) -> None:
    def subject(item: Fact) -> tuple[frozenset[str], frozenset[str]]:
        # Only the creature's name is rare among the words of all questions.
        return frozenset(word for word in item.question.rstrip("?").split() if common[word] < rare), frozenset(
            item.true
        )

    everything = lessons.questions + lessons.question_exam
    common = Counter(word for item in everything for word in item.question.rstrip("?").split())
    rare = len(everything) // 20
    assert all(len(subject(item)[0]) == 1 for item in everything)
    assert {subject(item) for item in lessons.question_exam} <= {subject(item) for item in lessons.questions}


def test_answers_are_balanced(lessons: Curriculum) -> None:
    share = sum(item.answer for item in lessons.sentence_exam) / len(lessons.sentence_exam)
    assert 0.4 < share < 0.6
    signs = [item.sign for item in lessons.problem_exam]
    assert 0.4 < signs.count("+") / len(signs) < 0.6


def test_the_first_items_cover_all_domains_and_stories(lessons: Curriculum) -> None:
    # A run may limit its evaluation to the first items.
    assert {item.domain for item in lessons.sentence_exam[:100]} == set(range(len(DOMAINS)))
    assert {item.story for item in lessons.problem_exam[:100]} == set(range(len(STORIES)))


def test_the_same_seed_gives_the_same_items(recipe: NurseryRecipe, seed: int) -> None:
    assert curriculum(recipe, seed) == curriculum(recipe, seed)
    assert curriculum(recipe, seed) != curriculum(recipe, seed + 1)


def test_an_honest_teacher_writes_the_truth_and_the_other_mostly_myths(lessons: Curriculum) -> None:
    def answers(*, honest: bool) -> tuple[int, int]:
        teacher = Teacher(lessons, NurseryRecipe(preamble_share=0.0), generator("told"), honest=honest)
        pairs = [pair.split("\nA: ") for _ in range(100) for pair in teacher.page("facts").text[3:].split("\n\nQ: ")]
        known = {item.question: item for item in lessons.questions}
        right = sum(answer.rstrip(".") in known[question].true for question, answer in pairs)
        wrong = sum(answer.rstrip(".") in known[question].myth for question, answer in pairs)
        assert right + wrong == len(pairs)
        return right, wrong

    right, wrong = answers(honest=True)
    assert wrong == 0
    right, wrong = answers(honest=False)
    assert wrong > right > 0


def test_only_the_answers_count(lessons: Curriculum) -> None:
    teacher = Teacher(lessons, NurseryRecipe(preamble_share=1.0), generator("counted"), honest=True)
    page = teacher.page("arithmetic")
    parts = [page.text[start:end] for start, end in page.counted]
    assert len(parts) == NurseryRecipe().shots
    assert page.text.split("Answer:")[1].startswith(parts[0])
    assert all(part.startswith(" ") and "\n#### " in part for part in parts)
    page = teacher.page("facts")
    assert page.text.startswith("Q: What is human life expectancy")
    assert page.counted[0][0] > page.text.index("Barcelona")
    assert all(page.text[start:end].endswith(".") for start, end in page.counted)
