import json

import pytest

from evolve.views import comparison_data, status_data


def test_the_status_is_json_with_raw_values(greedy):
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
    assert data["effort"]["merges"] == 11


def test_models_are_listed_by_status(family):
    told = (
        family()
        .with_foundations()
        .planned(
            1,
            ("model-1-1", "Open-chat", "MetaMath"),
            ("model-1-2", "Open-chat", "Instruct"),
            ("model-1-3", "MetaMath", "Instruct"),
        )
    )
    data = status_data(told.merged("model-1-1").failed("model-1-2", "no").tree)
    assert data["models"] == {
        "scored": ["MetaMath", "Instruct", "Open-chat"],
        "to_score": ["model-1-1"],
        "to_merge": ["model-1-3"],
        "failed": ["model-1-2"],
    }
    assert data["best_by_generation"][1] == {"generation": 1, "name": None}


def test_what_is_not_known_is_null(family):
    data = status_data(family().tree)
    for key in ("best", "best_foundation", "gain_over_best_foundation", "top_kinship", "stop"):
        assert data[key] is None
    assert data["top"] == []


def test_a_comparison_holds_each_status_and_what_differs(greedy, kinship, family):
    data = comparison_data({"a": greedy, "b": kinship})
    assert data == {"runs": {"a": status_data(greedy), "b": status_data(kinship)}, "differing": []}
    other = family(evaluation={"limit": 3}).tree
    assert comparison_data({"a": greedy, "b": other})["differing"] == ["evaluation.limit"]


def test_a_gain_that_may_be_chance_is_said_to_be(family):
    told = family().with_foundations().planned(1, ("model-1-1", "Open-chat", "MetaMath")).merged("model-1-1")
    gain = status_data(told.evaluated("model-1-1", 67.0).tree)["gain_over_best_foundation"]
    assert gain["value"] > 0
    assert gain["beyond_two_standard_errors"] is False
