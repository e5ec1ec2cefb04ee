import pytest

from evolve.lineage import Kinship, KinshipMeasured, LeftOut
from evolve.views import model_view


def facts(text):
    """The labelled lines as a mapping; a line without a label goes to the label above it."""
    found, label = {}, ""
    for line in text.splitlines():
        head, _, value = line.partition("  ")
        label = head or label
        found[label] = f"{found[label]}\n{value.strip()}" if not head and label in found else value.strip()
    return found


def test_a_child_is_told_whole(kinship, render):
    text = render(model_view(kinship, "model-3-3"))
    told = facts(text)
    assert text.startswith("model-3-3: merge of generation 3, rank 1 of 14 ★, in S\n")
    assert told["gsm8k"].split() == ["exact_match,strict-match", "59.06", "±1.20", "58.42", "+0.64", "±1.47"]
    assert told["average"].split() == ["69.06", "±0.69", "68.42", "+0.64", "±0.85"]
    assert "conservative" in text
    assert told["parent 1"] == "model-2-1  68.72 ±0.69"
    assert told["parent 2"] == "model-2-exp  68.11 ±0.69"
    assert told["parents' kinship"] == "pcc 0.2400  cs 0.1200  ed 1.5000"
    assert told["children"] == "none"
    assert told["decision"] == "why model-3-3"
    assert told["recipe"] == "slerp-gradient  recipes/model-3-3.yaml"
    assert told["checkpoint"] == "models/model-3-3"
    assert told["identity"] == "id-model-3-3"
    assert told["size"] == "14.5 GB"
    assert told["time to merge"] == "1 min 00 s"
    assert told["time to score"] == "30 min 00 s, batches of 16"
    assert "…" not in text


def test_a_foundation_has_children_and_a_source_and_no_gain(kinship, render):
    text = render(model_view(kinship, "Open-chat"))
    told = facts(text)
    assert text.startswith("Open-chat: foundation of generation 0, rank 8 of 14\n")
    assert told["children"].splitlines()[0].split() == ["model-1-2", "64.02", "gain", "-0.03"]
    assert len(told["children"].splitlines()) == 4
    assert told["source"] == "hub/Open-chat at revision abc123"
    assert "parent" not in text
    assert "conservative" not in text
    assert "time to merge" not in text


def test_the_rank_says_who_is_in_s(kinship, render):
    assert render(model_view(kinship, "model-3-4")).startswith("model-3-4: merge of generation 3, rank 3 of 14, in S\n")
    assert render(model_view(kinship, "model-3-exp")).startswith(
        "model-3-exp: exploration merge of generation 3, rank 4 of 14\n"
    )


@pytest.mark.parametrize("step", ["merge", "evaluate"])
def test_a_failed_child_says_where_and_why_in_full(family, render, step):
    told = family().with_foundations().planned(1, ("model-1-1", "Open-chat", "MetaMath"))
    if step == "evaluate":
        told.merged("model-1-1")
    told.retried("model-1-1", "out of [memory]", step).failed("model-1-1", "still [/out]\nof it", step)
    state = "failed to merge" if step == "merge" else "failed to score"
    text = render(model_view(told.tree, "model-1-1"))
    assert text.startswith(f"model-1-1: merge of generation 1, {state}\n")
    assert facts(text)[state] == "still [/out]\nof it"
    assert facts(text)["retried"] == f"{step}: out of [memory]"
    assert facts(text)["parents' kinship"] == "not measured"


def test_unknown_errors_reused_scores_remade_checkpoints_and_rows_left_out(family, render):
    told = family().with_foundations(stderr=None).planned(1, ("model-1-1", "Open-chat", "MetaMath"))
    left = LeftOut(tensor="model.embed_tokens.weight", rows=2, share=0.0011)
    kinship = Kinship(pcc=0.1, cs=0.1, ed=250)
    told.tree.apply(KinshipMeasured(a="MetaMath", b="Open-chat", kinship=kinship, left_out=(left,)))
    told.merged("model-1-1").evaluated("model-1-1", 64.0, None, reused=True).remade("model-1-1", "was deleted")
    text = render(model_view(told.tree, "model-1-1"))
    assert "±" not in text
    assert facts(text)["average"].split() == ["64.00", "65.00", "-1.00"]
    assert facts(text)["parents' kinship"].endswith("ed 250.0")
    assert facts(text)["not compared"] == "2 rows of model.embed_tokens.weight (0.11% of the base)"
    assert facts(text)["time to score"] == "none: its scores come from the score store, batches of 16"
    assert facts(text)["remade"] == "was deleted"


def test_long_identities_and_names_are_folded_not_cut(family, render):
    name = "n" * 90
    text = render(model_view(family({name: 1.0, "b": 2.0}).with_foundations().tree, name))
    letters = text.replace("\n", "").replace(" ", "")
    assert letters.count(name) == 4  # title, source, checkpoint, identity
    assert "…" not in text


def test_an_unknown_name_is_a_key_error(greedy):
    with pytest.raises(KeyError):
        model_view(greedy, "model-9-9")
