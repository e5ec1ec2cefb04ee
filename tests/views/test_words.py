"""No view breaks a word, at any width."""

import pytest
from family_trees import KINSHIP, Family

from evolve.views import Progress, compare_view, model_view, status_view, summary_view, tree_view

LONG = "a-name-of-a-model-that-is-longer-than-narrow-terminals"


@pytest.fixture(scope="module")
def tree():
    """A run with long names, a failure, a warning and models in every state."""
    differing = {"sliding_window": {"base_model": 4096, LONG: None}}
    run = Family({"MetaMath": 60.0, LONG: 61.0, "Open-chat": 62.0}, differing_settings=differing)
    run.at("2026-11-22T12:10:33+00:00").with_foundations()
    run.planned(1, *((f"model-1-{n}", LONG, "Open-chat") for n in (1, 2, 3, 4))).akin(LONG, "Open-chat", 0.5)
    run.merged("model-1-1").evaluated("model-1-1", 63.0).merged("model-1-2")
    return run.failed("model-1-3", "/a/path/without/any/blank/that/is/very/long is not readable").tree


PROGRESS = Progress("evaluate model-1-2", "", 1, 2)
VIEWS = {
    "tree": tree_view,
    "model": lambda tree: model_view(tree, "model-1-1"),
    "failed model": lambda tree: model_view(tree, "model-1-3"),
    "foundation": lambda tree: model_view(tree, LONG),
    "status": lambda tree: status_view(tree, folder="runs/x", running="p", progress=PROGRESS),
    "interrupted": lambda tree: status_view(tree, folder="runs/" + LONG, running=None),
    "summary": lambda tree: summary_view(tree, folder="runs/" + LONG),
    "comparison": lambda tree: compare_view({"runs/" + LONG: tree, "b": Family().complete({}).tree}),
}


@pytest.mark.parametrize("width", [20, 40, 80])
@pytest.mark.parametrize("view", VIEWS)
def test_no_word_is_broken(tree, render, view, width):
    wide = set(render(VIEWS[view](tree), width=1000).split())
    narrow = render(VIEWS[view](tree), width)

    rules = {word for word in (*wide, *narrow.split()) if set(word) == {"─"}}
    guides = {"│", "├──", "└──"}
    assert {word for word in narrow.split() if word not in wide} <= rules | guides | {"better", "vs"}
    assert "…" not in narrow


@pytest.mark.parametrize("width", [20, 40, 80])
@pytest.mark.parametrize("view", VIEWS)
def test_only_a_line_of_a_single_long_word_or_a_command_exceeds_the_width(tree, render, view, width):
    commands = ("evolve ", "AutoModelForCausalLM", "in Python")
    for line in render(VIEWS[view](tree), width).splitlines():
        text = line.lstrip("│├└─★●◇✗ ")
        assert len(line) <= width or len(text.split()) == 1 or text.startswith(commands), line


def test_words_are_wrapped_as_late_as_possible(render):
    tree = Family(name="kinship").with_foundations().complete(KINSHIP).tree
    lines = render(status_view(tree, folder="f", running="a bb ccc dddd eeeee ffffff ggggggg"), width=40).splitlines()
    assert lines[2:4] == ["state            running: a bb ccc dddd", "                 eeeee ffffff ggggggg"]
