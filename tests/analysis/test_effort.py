import pytest

from evolve.analysis import Estimate, effort, remaining


def test_the_effort_leaves_out_cached_scores(family):
    run = family().evaluated("MetaMath", 60, seconds=100, reused=True).evaluated("Instruct", 61, seconds=10)
    run.evaluated("Open-chat", 62, seconds=10)
    run.planned(1, ("model-1-1", "Open-chat", "MetaMath"), ("model-1-2", "Open-chat", "Instruct"))
    run.merged("model-1-1", seconds=5).failed("model-1-1", "no", step="evaluate").failed("model-1-2", "no")
    done = effort(run.tree)
    assert (done.merges, done.evaluations, done.reused) == (1, 2, 1)
    assert (done.merge_seconds, done.evaluate_seconds) == (5, 20)


def strategy(**settings):
    return {"top_k": 3, "stop_at_kinship": None, "max_generations": 1, **settings}


def test_there_is_no_estimate_before_a_model_was_scored(family):
    run = family(strategy=strategy())
    assert remaining(run.tree) is None
    run.evaluated("MetaMath", 60, seconds=100, reused=True)  # taken from the score store
    assert remaining(run.tree) is None
    run.evaluated("Instruct", 60, seconds=100)
    assert remaining(run.tree) == Estimate(100, 100 + 3 * 100)  # one foundation to score, then three children


def test_there_is_no_estimate_after_the_run_has_stopped(greedy):
    assert remaining(greedy) is None


def test_the_estimate_uses_the_mean_times_of_this_run(family):
    run = family(strategy=strategy())
    run.evaluated("MetaMath", 60, seconds=100).evaluated("Instruct", 60, seconds=200)
    run.evaluated("Open-chat", 60, seconds=1, reused=True)
    run.planned(1, *((f"model-1-{n}", "Open-chat", "MetaMath") for n in (1, 2, 3, 4)))
    run.merged("model-1-1", seconds=10).merged("model-1-2", seconds=30).failed("model-1-3", "no")
    # Two models to score, and one to merge and to score.
    assert remaining(run.tree) == Estimate(2 * 150 + 20 + 150, 2 * 150 + 20 + 150)


def test_a_partly_cached_evaluation_counts_only_where_there_is_no_other(family):
    run = family(strategy=strategy())
    run.evaluated("MetaMath", 60, seconds=10, reused_tasks=("gsm8k",))
    assert remaining(run.tree).seconds_for_generation == 2 * 10
    run.evaluated("Instruct", 60, seconds=300)
    assert remaining(run.tree).seconds_for_generation == 300


@pytest.mark.parametrize(
    ("settings", "children"),
    [
        ({"name": "greedy"}, 3 + 3 + 3),  # generation 1 merges the three pairs of foundations
        ({"name": "kinship"}, 3 + 4 + 4),  # and from generation 2 on there is an exploration merge
        ({"name": "greedy", "top_k": 2}, 3 + 1 + 1),
        ({"name": "greedy", "top_k": 5}, 3 + 5 + 5),
        ({"name": "kinship", "pairs_per_generation": 1}, 3 + 2 + 2),
    ],
)
@pytest.mark.parametrize("recipes", [1, 2])
def test_later_generations_have_at_most_the_children_that_the_settings_allow(family, settings, children, recipes):
    merge = {"recipe": ["slerp", "linear"][:recipes]}
    run = family(strategy=strategy(max_generations=3, **settings), merge=merge)
    for name in ("MetaMath", "Instruct", "Open-chat"):
        run.evaluated(name, 60, seconds=100)
    assert remaining(run.tree) == Estimate(0, children * recipes * 100)
