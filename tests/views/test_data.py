import json

import pytest

from evolve.views import Progress, comparison_data, status_data


def test_the_status_is_json_with_numbers_as_they_are(greedy):
    data = status_data(greedy)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert (data["run"], data["strategy"], data["metric"], data["top_k"]) == ("greedy", "greedy", "pcc", 3)
    assert (data["generation"], data["max_generations"]) == (4, 10)
    assert data["best"]["name"] == "model-2-1"
    assert data["best"]["average"] == pytest.approx(0.6872)
    assert data["best"]["checkpoint"] == "models/model-2-1"
    assert data["best_foundation"]["name"] == "Open-chat"
    assert data["gain_over_best_foundation"]["value"] == pytest.approx(0.0244)
    assert data["gain_over_best_foundation"]["beyond_two_standard_errors"] is True
    assert [entry["name"] for entry in data["best_by_generation"]][1:3] == ["model-1-3", "model-2-1"]
    assert data["top"] == ["model-2-1", "model-3-1", "model-4-3"]
    assert (data["top_kinship"], data["stop_at_kinship"]) == (None, 0.9)
    assert data["stop"]["reason"] == "converged"
    assert data["effort"] == {
        "merges": 11,
        "evaluations": 14,
        "reused": 0,
        "merge_seconds": 660.0,
        "evaluate_seconds": 14 * 1800.0,
    }
    assert data["last_event"].startswith("stopped after generation 4, converged: ")
    assert (data["last_event_at"], data["estimate"], data["progress"]) == (None, None, None)


def test_models_are_listed_by_state(family):
    run = (
        family()
        .with_foundations()
        .planned(
            1,
            ("model-1-1", "Open-chat", "MetaMath"),
            ("model-1-2", "Open-chat", "Instruct"),
            ("model-1-3", "MetaMath", "Instruct"),
        )
    )
    data = status_data(run.merged("model-1-1").failed("model-1-2", "no").tree)
    assert data["models"] == {
        "scored": ["MetaMath", "Instruct", "Open-chat"],
        "estimated": [],
        "racing": [],
        "to_score": ["model-1-1"],
        "to_merge": ["model-1-3"],
        "dropped": [],
        "failed": ["model-1-2"],
    }
    assert data["best_by_generation"][1] == {"generation": 1, "name": None}


def test_unknown_values_are_null(family):
    data = status_data(family().tree)
    for key in ("best", "best_foundation", "gain_over_best_foundation", "top_kinship", "stop", "estimate"):
        assert data[key] is None
    assert data["top"] == []


def test_a_comparison_has_each_status_and_the_differing_settings(greedy, kinship, family):
    data = comparison_data({"a": greedy, "b": kinship})
    assert data == {"runs": {"a": status_data(greedy), "b": status_data(kinship)}, "differing": []}
    other = family(evaluation={"limit": 3}).tree
    assert comparison_data({"a": greedy, "b": other})["differing"] == ["evaluation.limit"]


def test_a_difference_within_two_standard_errors_is_marked(family):
    run = family().with_foundations().planned(1, ("model-1-1", "Open-chat", "MetaMath")).merged("model-1-1")
    gain = status_data(run.evaluated("model-1-1", 67.0).tree)["gain_over_best_foundation"]
    assert gain["value"] > 0
    assert gain["beyond_two_standard_errors"] is False


def test_the_present_step_the_last_event_and_the_time_left(family):
    run = (
        family(strategy={"max_generations": 1})
        .at("2026-11-22T12:10:33.462+00:00")
        .evaluated("MetaMath", 60, seconds=90)
    )
    data = status_data(run.tree, progress=Progress("evaluate Instruct", "loglikelihood", 1, 3))
    assert data["progress"] == {
        "step": "evaluate Instruct",
        "words": "loglikelihood",
        "done": 1,
        "total": 3,
        "percent": 33,
    }
    assert data["last_event"].startswith("MetaMath: 60.00")
    assert data["last_event_at"] == "2026-11-22T12:10:33.462+00:00"
    assert data["estimate"] == {"seconds_for_generation": 180.0, "seconds_at_most": 180.0 + 270.0}
