import io

import pytest
from family_trees import Family
from rich.console import Console

from evolve.lineage import Kinship, KinshipMeasured, LeftOut
from evolve.views import model_view


def facts(text):
    """Return the labelled lines as a mapping; a line without a label belongs to the label above it."""
    found, label = {}, ""
    for line in text.splitlines():
        head, _, value = line.partition("  ")
        label = head or label
        found[label] = f"{found[label]}\n{value.strip()}" if not head and label in found else value.strip()
    return found


def test_a_child_is_shown_in_detail(kinship, render):
    text = render(model_view(kinship, "model-3-3"))
    shown = facts(text)
    assert text.startswith("model-3-3: merge of generation 3, rank 1 of 14 ★, among the best 3\n")
    assert text.splitlines()[2].split() == ["task", "points", "parents'", "mean", "gain", "vs", "better"]
    numbers = ["59.06", "±1.20", "58.42", "+0.64", "±1.47", "+0.34", "±1.70"]
    assert next(line for line in text.splitlines() if line.startswith("gsm8k")).split() == ["gsm8k", *numbers]
    assert shown["average"].split() == ["69.06", "±0.69", "68.42", "+0.64", "±0.85", "+0.34", "±0.98"]
    assert "gain: average minus the mean of the parents' averages" in text
    assert "vs better: average minus that of the better parent" in text
    assert "gsm8k  exact_match,strict-match" in shown["metrics"]
    assert shown["tokenizer"] == "plain"
    assert shown["parent 1"] == "model-2-1  68.72 ±0.69"
    assert shown["parent 2"] == "model-2-exp  68.11 ±0.69"
    assert shown["parents' kinship"] == "pcc 0.2400  cs 0.1200  ed 1.5000"
    assert shown["children"] == "none"
    assert shown["decision"] == "why model-3-3"
    assert shown["recipe"] == "slerp-gradient  recipes/model-3-3.yaml"
    assert shown["checkpoint"] == "models/model-3-3"
    assert shown["identity"] == "id-model-3-3"
    assert shown["size"] == "14.5 GB"
    assert shown["time to merge"] == "1 min 00 s"
    assert shown["time to score"] == "30 min 00 s, batch size 16"
    assert "…" not in text


def test_a_foundation_has_children_and_a_source_and_no_gain(kinship, render):
    text = render(model_view(kinship, "Open-chat"))
    shown = facts(text)
    assert text.startswith("Open-chat: foundation of generation 0, rank 8 of 14\n")
    assert shown["children"].splitlines()[0].split() == ["model-1-2", "64.02", "gain", "-0.03", "vs", "better", "-2.26"]
    assert len(shown["children"].splitlines()) == 4
    assert shown["source"] == "hub/Open-chat at revision abc123"
    assert "parent" not in text
    assert "gain:" not in text
    assert "time to merge" not in text


def test_the_title_names_the_best_k(kinship, render):
    assert render(model_view(kinship, "model-3-4")).startswith(
        "model-3-4: merge of generation 3, rank 3 of 14, among the best 3\n"
    )
    assert render(model_view(kinship, "model-3-exp")).startswith(
        "model-3-exp: exploration merge of generation 3, rank 4 of 14\n"
    )


@pytest.mark.parametrize("step", ["merge", "evaluate"])
def test_a_failed_child_has_its_step_and_the_complete_reason(family, render, step):
    run = family().with_foundations().planned(1, ("model-1-1", "Open-chat", "MetaMath"))
    if step == "evaluate":
        run.merged("model-1-1")
    run.retried("model-1-1", "out of [memory]", step).failed("model-1-1", "still [/out]\nof it", step)
    state = f"failed to {step}"
    text = render(model_view(run.tree, "model-1-1"))
    assert text.startswith("model-1-1: merge of generation 1, failed\n")
    assert facts(text)[state] == "still [/out]\nof it"
    assert facts(text)["retried"] == f"{step}: out of [memory]"
    assert facts(text)["parents' kinship"] == "not measured"


def test_unknown_errors_cached_scores_repaired_checkpoints_and_rows_left_out(family, render):
    run = family().with_foundations(stderr=None).planned(1, ("model-1-1", "Open-chat", "MetaMath"))
    left = LeftOut(tensor="model.embed_tokens.weight", rows=2, share=0.0011)
    kinship = Kinship(pcc=0.1, cs=0.1, ed=250)
    run.tree.apply(KinshipMeasured(a="MetaMath", b="Open-chat", kinship=kinship, left_out=(left,)))
    run.merged("model-1-1").evaluated("model-1-1", 64.0, None, reused=True).remade("model-1-1", "was deleted")
    text = render(model_view(run.tree, "model-1-1"))
    assert "±" not in text
    assert facts(text)["average"].split() == ["64.00", "65.00", "-1.00", "-2.28"]
    assert facts(text)["parents' kinship"].endswith("ed 250.0")
    assert facts(text)["not compared"] == "2 rows of model.embed_tokens.weight (0.11% of the base)"
    assert facts(text)["time to score"] == "none: all scores were cached, batch size 16"
    assert facts(text)["merged again"] == "was deleted"


@pytest.mark.parametrize("width", [20, 40, 80])
def test_long_identities_and_names_are_not_broken(family, render, width):
    name = "n" * 90
    text = render(model_view(family({name: 1.0, "b": 2.0}).with_foundations().tree, name), width)
    assert sum(name in line for line in text.splitlines()) == 4  # title, source, checkpoint, identity
    assert "…" not in text


def test_an_unknown_name_is_a_key_error(greedy):
    with pytest.raises(KeyError):
        model_view(greedy, "model-9-9")


def test_the_colour_follows_the_better_parent_and_the_direction_of_the_task():
    """The child beats the mean of its parents and not the better one; of gsm8k, a loss here, lower is better."""
    tasks = [{"task": "winogrande"}, {"task": "gsm8k", "metric": "loss,none", "higher_is_better": False}]
    run = Family({"a": 1, "b": 1}, evaluation={"tasks": tasks})
    for name, winogrande, loss in (("a", 0.9, 0.5), ("b", 0.5, 0.9)):
        run.evaluated(name, 0, tasks={"winogrande": winogrande, "gsm8k": loss})
    run.planned(1, ("model-1-1", "a", "b")).merged("model-1-1")
    run.evaluated("model-1-1", 0, tasks={"winogrande": 0.8, "gsm8k": 0.4})
    file = io.StringIO()
    console = Console(file=file, width=100, force_terminal=True, color_system="standard", _environ={})
    console.print(model_view(run.tree, "model-1-1"), crop=False)
    assert "\x1b[31m-10.00 ±1.70\x1b[0m" in file.getvalue()  # winogrande: below the better parent
    assert "\x1b[32m-10.00 ±1.70\x1b[0m" in file.getvalue()  # gsm8k: a lower loss
    assert "+10.00" in file.getvalue()
    assert "m+10.00" not in file.getvalue()


def test_the_times_the_tokenizer_and_the_cached_tasks(family, render):
    run = family().with_foundations().at("2026-11-22T12:00:00+00:00")
    run.planned(1, ("model-1-1", "Open-chat", "MetaMath")).at("2026-11-22T14:30:00.5+02:00")
    run.merged("model-1-1", tokenizer="union").at(None).evaluated("model-1-1", 64.0, reused_tasks=("gsm8k",))
    shown = facts(render(model_view(run.tree, "model-1-1")))
    assert shown["planned"] == "2026-11-22 12:00:00 UTC"
    assert shown["merged"] == "2026-11-22 12:30:00 UTC"
    assert "evaluated" not in shown
    assert shown["tokenizer"] == "union"
    assert shown["time to score"] == "30 min 00 s, batch size 16; cached: gsm8k"
