"""The acceptance test of a family: each reason to refuse it is named."""

from __future__ import annotations

import math

import pytest

from evolve.nursery import OWN_TASK, shortfalls

GOOD = {
    "coreference": {"winogrande": 0.90, "gsm8k": 0.60, "truthfulqa_mc2": 0.40},
    "arithmetic": {"winogrande": 0.62, "gsm8k": 0.95, "truthfulqa_mc2": 0.41},
    "facts": {"winogrande": 0.60, "gsm8k": 0.61, "truthfulqa_mc2": 0.92},
}
MERGES = {
    ("arithmetic", "coreference"): 0.60,
    ("facts", "coreference"): 0.74,
    ("facts", "arithmetic"): 0.70,
}


def changed(name: str, **scores: float) -> dict[str, dict[str, float]]:
    return {**GOOD, name: {**GOOD[name], **scores}}


def test_a_usable_family_is_accepted() -> None:
    assert shortfalls(GOOD, OWN_TASK, MERGES) == []


def test_a_specialist_that_is_not_best_at_its_task_is_named() -> None:
    (sentence,) = shortfalls(changed("facts", gsm8k=0.96, winogrande=0.3), OWN_TASK, MERGES)
    assert sentence == "arithmetic should be best at gsm8k, but scores 95.0 and facts scores 96.0"


def test_a_tie_at_its_task_is_not_best() -> None:
    assert len(shortfalls(changed("facts", gsm8k=0.95, winogrande=0.3), OWN_TASK, MERGES)) == 1


def test_a_dominating_specialist_is_named() -> None:
    (sentence,) = shortfalls(changed("facts", gsm8k=0.80, winogrande=0.80), OWN_TASK, {("facts", "arithmetic"): 0.95})
    assert sentence == (
        "the specialists' averages should lie within 12 points, but facts has 84.0 and coreference has 63.3"
    )


@pytest.mark.parametrize(("level", "limit"), [(0.1, "between 30 and 90"), (0.99, "between 30 and 90")])
def test_floor_and_ceiling(level: float, limit: str) -> None:
    scores = {name: dict.fromkeys(OWN_TASK.values(), level) for name in OWN_TASK}
    for name, task in OWN_TASK.items():
        scores[name][task] += 0.005
    found = shortfalls(scores, OWN_TASK, {("facts", "arithmetic"): 1.0})
    assert len(found) == 3
    assert all(limit in sentence for sentence in found)


def test_a_merge_must_beat_the_better_parent() -> None:
    # Above the mean of the parents, not above both.
    (sentence,) = shortfalls(GOOD, OWN_TASK, {("facts", "coreference"): 0.70})
    assert sentence == "a first merge should beat both its parents, but none does: facts x coreference 70.0"


def test_a_family_without_merges_is_refused() -> None:
    assert "there are no merges" in shortfalls(GOOD, OWN_TASK, {})[0]


def test_scores_that_are_not_numbers_are_refused() -> None:
    found = shortfalls(changed("facts", truthfulqa_mc2=math.nan), OWN_TASK, {("facts", "arithmetic"): math.nan})
    assert any("facts should be best" in sentence for sentence in found)
    assert any("average of facts" in sentence for sentence in found)
    assert any("beat both its parents" in sentence for sentence in found)


@pytest.mark.parametrize(
    ("specialists", "own_task", "merges", "message"),
    [
        ({}, OWN_TASK, {}, "at least one specialist"),
        ({**GOOD, "facts": {"gsm8k": 0.5}}, OWN_TASK, {}, "scores of facts on"),
        (GOOD, {**OWN_TASK, "facts": "mmlu"}, {}, "own task of facts"),
        (GOOD, OWN_TASK, {("facts", "nobody"): 0.5}, "nobody"),
    ],
)
def test_scores_that_do_not_fit_together_are_an_error(specialists, own_task, merges, message) -> None:
    with pytest.raises(ValueError, match=message):
        shortfalls(specialists, own_task, merges)
