"""Samples of items: nested, unbiased whatever the child answers, and exact when all items are answered."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from evolve.analysis import ItemSample
from evolve.lineage import interval

SHARES = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
Values = dict[int, float]


def family(count: int, seed: int, *, child: str = "heir") -> tuple[Values, Values, Values]:
    """Return the values of two parents and of a child: one that follows them, or one that answers at random."""
    rng = random.Random(seed)
    first = {item: float(rng.random() < 0.7) for item in range(count)}
    second = {item: value if rng.random() < 0.6 else float(rng.random() < 0.5) for item, value in first.items()}
    if child == "heir":
        own = {i: (first[i] if rng.random() < 0.5 else second[i]) if rng.random() < 0.95 else 0.0 for i in first}
    else:
        own = {item: rng.random() for item in first}
    return first, second, own


def mean(values: Values) -> float:
    return math.fsum(values.values()) / len(values)


@pytest.mark.parametrize("count", [1, 2, 7, 40, 300])
@pytest.mark.parametrize("seed", range(5))
def test_a_sample_of_a_larger_share_contains_those_of_smaller_ones(count: int, seed: int) -> None:
    first, second, _ = family(count, seed)
    sample = ItemSample(range(count), (first, second), "key")
    previous: set[int] = set()
    for share in SHARES:
        chosen = sample.chosen(share)
        assert list(chosen) == sorted(set(chosen))
        assert previous <= set(chosen) <= set(range(count))
        previous = set(chosen)
    assert previous == set(range(count))


@pytest.mark.parametrize("share", SHARES)
def test_a_sample_has_about_its_share_of_the_items(share: float) -> None:
    first, second, _ = family(1000, 3)
    assert len(ItemSample(range(1000), (first, second), "key").chosen(share)) == pytest.approx(1000 * share, abs=5)


@pytest.mark.parametrize("child", ["heir", "stranger"])
@pytest.mark.parametrize("count", [3, 60, 251])
def test_with_all_items_the_estimate_is_the_score_and_has_no_error(count: int, child: str) -> None:
    first, second, own = family(count, 1, child=child)
    estimate = ItemSample(range(count), (first, second), "key").estimate(1, own)
    assert (estimate.value, estimate.stderr) == (mean(own), 0.0)
    assert (estimate.answered, estimate.items) == (count, count)


@pytest.mark.parametrize("child", ["heir", "stranger"])
def test_the_estimate_is_unbiased_and_its_variance_is_that_of_many_samples(child: str) -> None:
    """The bound is four standard errors of the mean of 1,000 independent samples of the same items."""
    count = 120
    first, second, own = family(count, 5, child=child)
    found = [ItemSample(range(count), (first, second), f"{n}").estimate(0.2, own) for n in range(1000)]
    errors = [estimate.value - mean(own) for estimate in found]
    assert abs(statistics.fmean(errors)) < 4 * statistics.stdev(errors) / math.sqrt(len(errors))
    variance = statistics.fmean(estimate.stderr**2 for estimate in found)
    assert 0.9 < variance / statistics.fmean(error**2 for error in errors) < 1.35
    inside = statistics.fmean(abs(e) <= 1.96 * f.stderr for e, f in zip(errors, found, strict=True))
    assert 0.92 < inside < 0.99


def test_the_mean_over_all_possible_samples_is_the_score() -> None:
    """Each item of a cell is in equally many samples, so that the estimates average to the score exactly."""
    first = dict.fromkeys(range(6), 1.0) | dict.fromkeys(range(6, 10), 0.0)
    second = dict.fromkeys(range(10), 0.0)
    own = {item: [0.3, 0.9, 0.1, 0.0, 1.0, 0.5, 0.7, 0.2, 0.6, 0.05][item] for item in range(10)}
    totals: dict[tuple[int, ...], float] = {}
    for n in range(3000):
        sample = ItemSample(range(10), (first, second), f"{n}")
        totals[sample.chosen(0.3)] = sample.estimate(0.3, own).value
    sizes = {(sum(i < 6 for i in chosen), sum(i >= 6 for i in chosen)) for chosen in totals}
    assert len(sizes) == 1
    (large, small), *_ = sizes
    assert len(totals) == math.comb(6, large) * math.comb(4, small)
    assert math.fsum(totals.values()) / len(totals) == pytest.approx(mean(own), abs=1e-12)


def test_items_on_which_the_parents_disagree_are_sampled_more() -> None:
    first = {item: float(item < 500) for item in range(1000)}
    second = {item: float(item < 400) for item in range(1000)}
    chosen = ItemSample(range(1000), (first, second), "key").chosen(0.1)
    disagreed = sum(400 <= item < 500 for item in chosen)
    assert disagreed / 100 > 2.5 * (len(chosen) - disagreed) / 900


def test_a_child_and_a_task_have_samples_of_their_own_that_never_change() -> None:
    first, second, _ = family(200, 2)
    one, other = (ItemSample(range(200), (first, second), key).chosen(0.1) for key in ("a", "b"))
    assert one != other
    assert one == ItemSample(range(200), (first, second), "a").chosen(0.1)
    assert one[:6] == (1, 12, 14, 25, 27, 34)


@pytest.mark.parametrize("known", [0, 1, 30])
def test_a_parent_with_few_known_items_gives_an_unbiased_estimate(known: int) -> None:
    count = 100
    first, second, own = family(count, 9)
    part = {item: second[item] for item in range(known)}
    found = [ItemSample(range(count), (first, part), f"{n}").estimate(0.2, own) for n in range(700)]
    errors = [estimate.value - mean(own) for estimate in found]
    assert abs(statistics.fmean(errors)) < 4 * statistics.stdev(errors) / math.sqrt(len(errors))


def test_parents_without_any_known_item_leave_a_simple_random_sample() -> None:
    _, _, own = family(100, 9)
    sample = ItemSample(range(100), ({}, {}), "key")
    assert len(sample.chosen(0.2)) == 20
    chosen = {item: own[item] for item in sample.chosen(0.2)}
    assert sample.estimate(0.2, chosen).value == pytest.approx(mean(chosen))


def test_equal_answers_of_a_few_items_still_have_an_error() -> None:
    agreed = dict.fromkeys(range(100), 1.0) | {99: 0.0}
    estimate = ItemSample(range(100), (agreed, agreed), "key").estimate(0.1, agreed)
    assert estimate.value == pytest.approx(0.99)
    assert estimate.stderr > 0.005


def test_without_any_difference_an_estimate_still_has_an_error_and_an_influence() -> None:
    nothing = dict.fromkeys(range(100), 0.0)
    estimate = ItemSample(range(100), (nothing, nothing), "key").estimate(0.1, nothing)
    assert (estimate.value, estimate.influence) == (0.0, 0.1)
    assert estimate.stderr > 0


def test_the_influence_is_that_of_the_largest_weight() -> None:
    """Of 100 equal items 10 are sampled, so one answer counts for 10 items; its values reach from -1 to 3."""
    parent = {item: float(item == 0) for item in range(100)}
    own = dict.fromkeys(range(100), 3.0) | {99: -1.0}
    sample = ItemSample(range(100), ({}, {}), "key")
    values = {item: own[item] for item in sample.chosen(0.1)}
    assert sample.estimate(0.1, {**values, sample.chosen(0.1)[0]: -1.0}).influence == pytest.approx(0.4)
    assert sample.estimate(1, own).influence == 0.0
    uneven = ItemSample(range(100), (parent, parent), "key")
    assert uneven.estimate(0.1, parent).influence == pytest.approx(99 / 10 / 100)


@pytest.mark.parametrize("rung", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("count", [60, 150])
def test_the_bounds_of_a_small_sample_miss_no_more_often_than_allowed(count: int, rung: int) -> None:
    """A child that answers 5% of the items otherwise than both of its parents, of which a sample may see none."""
    rng, missed = random.Random(7), [0, 0]
    first = {item: float(item % 3 > 0) for item in range(count)}
    second = {item: float(item % 3 > 0 or item % 12 == 0) for item in range(count)}
    own = {item: 1 - value if rng.random() < 0.05 else value for item, value in first.items()}
    for number in range(1000):
        found = ItemSample(range(count), (first, second), f"{number}").estimate(SHARES[rung - 1], own)
        bounds = interval(
            found.value, found.stderr, found.influence, rungs=SHARES, rung=rung, children=1, confidence=0.99
        )
        missed[0] += bounds.high < mean(own)
        missed[1] += bounds.low > mean(own)
    allowed = 0.01 * SHARES[rung - 1] / math.fsum(SHARES[:-1])
    assert max(missed) <= 1000 * allowed


def test_a_missing_value_is_not_ignored() -> None:
    first, second, own = family(50, 4)
    sample = ItemSample(range(50), (first, second), "key")
    del own[sample.chosen(0.2)[0]]
    with pytest.raises(KeyError):
        sample.estimate(0.2, own)
