"""The acceptance test of a family: whether its scores make it a usable test bed."""

from __future__ import annotations

from collections.abc import Mapping

OWN_TASK: Mapping[str, str] = {
    "coreference": "winogrande",
    "arithmetic": "gsm8k",
    "facts": "truthfulqa_mc2",
}
"""The task that each specialist was trained for."""

WIDEST_SPREAD = 0.12
"""Largest difference of two specialists' averages (0..1). Beyond it no merge beats the better one."""

FLOOR, CEILING = 0.30, 0.90
"""Limits of a specialist's average (0..1). Outside them differences cannot be measured."""


def shortfalls(
    specialists: Mapping[str, Mapping[str, float]],
    own_task: Mapping[str, str],
    merges: Mapping[tuple[str, str], float],
) -> list[str]:
    """List the reasons why a family is not a usable test bed.

    Args:
        specialists: Score in 0..1 of each specialist on each task; all on the same tasks.
        own_task: The task each specialist was trained for.
        merges: Average score in 0..1 of the merge of each pair of specialists.

    Returns:
        One sentence per reason; empty if the family is accepted.

    Raises:
        ValueError: There are no specialists, one of them has no own task or no score on it, their tasks
            differ, or a merge has an unknown parent.
    """
    _check(specialists, own_task, merges)
    averages = {name: sum(scores.values()) / len(scores) for name, scores in specialists.items()}
    return [
        *_not_best_at_own(specialists, own_task),
        *_at_a_limit(averages),
        *_spread(averages),
        *_no_better_merge(averages, merges),
    ]


def _check(
    specialists: Mapping[str, Mapping[str, float]],
    own_task: Mapping[str, str],
    merges: Mapping[tuple[str, str], float],
) -> None:
    if not specialists:
        raise ValueError("expected the scores of at least one specialist, got none")
    tasks = set(next(iter(specialists.values())))
    for name, scores in specialists.items():
        if set(scores) != tasks:
            raise ValueError(f"expected scores of {name} on {sorted(tasks)}, got them on {sorted(scores)}")
        if own_task.get(name) not in tasks:
            raise ValueError(f"expected the own task of {name} to be one of {sorted(tasks)}, got {own_task.get(name)}")
    for parent in sorted({parent for pair in merges for parent in pair} - set(specialists)):
        raise ValueError(f"expected the parents of merges to be among {sorted(specialists)}, got {parent}")


def _not_best_at_own(specialists: Mapping[str, Mapping[str, float]], own_task: Mapping[str, str]) -> list[str]:
    found = []
    for name, scores in specialists.items():
        task = own_task[name]
        rivals = {other: theirs[task] for other, theirs in specialists.items() if other != name}
        # `not a > b` instead of `a <= b`, so that NaN fails.
        found += [
            f"{name} should be best at {task}, but scores {100 * scores[task]:.1f} and {other} scores {100 * score:.1f}"
            for other, score in rivals.items()
            if not scores[task] > score
        ]
    return found


def _at_a_limit(averages: Mapping[str, float]) -> list[str]:
    return [
        f"the average of {name} should lie between {100 * FLOOR:.0f} and {100 * CEILING:.0f}, but is {100 * mean:.1f}"
        for name, mean in averages.items()
        if not FLOOR <= mean <= CEILING
    ]


def _spread(averages: Mapping[str, float]) -> list[str]:
    best, worst = max(averages, key=averages.__getitem__), min(averages, key=averages.__getitem__)
    if averages[best] - averages[worst] <= WIDEST_SPREAD:
        return []
    had = f"{best} has {100 * averages[best]:.1f} and {worst} has {100 * averages[worst]:.1f}"
    return [f"the specialists' averages should lie within {100 * WIDEST_SPREAD:.0f} points, but {had}"]


def _no_better_merge(averages: Mapping[str, float], merges: Mapping[tuple[str, str], float]) -> list[str]:
    if any(score > max(averages[first], averages[second]) for (first, second), score in merges.items()):
        return []
    listed = ", ".join(f"{first} x {second} {100 * score:.1f}" for (first, second), score in merges.items())
    return [f"a first merge should beat both its parents, but none does: {listed or 'there are no merges'}"]
