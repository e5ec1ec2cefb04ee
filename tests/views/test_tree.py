import io

import pytest
from rich.console import Console

from evolve.views import tree_view
from evolve.views.text import TIMES


def line_of(text, name):
    """The first line on which a model stands as a node."""
    return next(line for line in text.splitlines() if "──" in line and name in line.split())


def test_a_small_tree_reads_exactly_so(family, render):
    told = family({"math": 63.72, "chat": 66.28}, name="small", strategy={"top_k": 2}).with_foundations()
    told.planned(1, ("model-1-1", "chat", "math")).akin("chat", "math", 0.05).merged("model-1-1")
    told.evaluated("model-1-1", 66.84).planned(
        2, ("model-2-1", "model-1-1", "chat"), ("model-2-exp", "model-1-1", "math")
    )
    told.akin("model-1-1", "chat", 0.93).failed("model-2-1", "CUDA out of memory.\nTraceback")
    told.akin("model-1-1", "math", -0.02).merged("model-2-exp").evaluated("model-2-exp", 64.0, None)
    told.stopped("converged", "the best 2 models are the same as before generation 2: model-1-1, chat")
    assert render(tree_view(told.tree)).replace(TIMES, "x") == (
        "small: kinship strategy, k = 2, kinship by pcc\n"
        "★ best   ● in S, the 2 best   ◇ exploration   ✗ failed   scores in points\n"
        "\n"
        "       model        average       gain     pcc  parents\n"
        "Generation 0: foundation models\n"
        "├──    math         63.72 ±0.69\n"
        "│        winogrande 71.72  gsm8k 53.72  truthfulqa_mc2 65.72\n"
        "└── ●  chat         66.28 ±0.69\n"
        "         winogrande 74.28  gsm8k 56.28  truthfulqa_mc2 68.28\n"
        "Generation 1: every pair of foundations\n"
        "└── ★  model-1-1    66.84 ±0.69  +1.84   0.050  chat x math\n"
        "         winogrande 74.84  gsm8k 56.84  truthfulqa_mc2 68.84\n"
        "Generation 2 from S = model-1-1, chat\n"
        "├── ✗  model-2-1    failed               0.930  model-1-1 x chat\n"
        "│        CUDA out of memory.\n"
        "└──  ◇ model-2-exp  64.00        -1.28  -0.020  model-1-1 x math\n"
        "         winogrande 72.00  gsm8k 54.00  truthfulqa_mc2 66.00\n"
        "\n"
        "S = model-1-1, chat; its mean kinship: 0.930 (pcc)\n"
        "Stopped: converged after generation 2: the best 2 models are the same as before\n"
        "generation 2: model-1-1, chat\n"
    )


def test_the_paper_fits_in_80_columns(kinship, render):
    text = render(tree_view(kinship))
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= 80
    assert line_of(text, "model-2-1").split()[1:] == [
        "●",
        "model-2-1",
        "68.72",
        "±0.69",
        "+2.16",
        "0.930",
        "model-1-3",
        TIMES,
        "Open-chat",
    ]
    assert "★  model-3-3" in text
    assert "◇ model-3-exp" in text
    assert "-3.96" in line_of(text, "model-2-2")
    assert "Generation 3 from S = model-2-1, model-2-exp, model-1-3" in text
    assert text.endswith("Not finished: 4 of the 4 models of generation 3 are scored\n")


def test_a_wide_terminal_has_one_line_a_model(kinship, render):
    text = render(tree_view(kinship), width=140)
    assert "truthfulqa_mc2 70.72" in line_of(text, "model-2-1")
    columns = {line.index("winogrande") for line in text.splitlines() if "winogrande" in line}
    assert len(columns) == 1


def test_before_any_score_it_says_what_is_missing(family, render):
    text = render(tree_view(family().tree))
    assert line_of(text, "MetaMath").endswith("MetaMath   to score")
    assert "S = " not in text
    assert "exploration" not in text
    assert "failed" not in text
    assert text.endswith("Not finished: 0 of the 3 models of generation 0 are scored\n")


def test_planned_and_merged_children_and_unmeasured_kinship(family, render):
    told = (
        family()
        .with_foundations()
        .planned(1, ("model-1-1", "Open-chat", "MetaMath"), ("model-1-2", "Open-chat", "Instruct"))
    )
    text = render(tree_view(told.merged("model-1-2").tree))
    assert line_of(text, "model-1-1").split()[2:5] == ["to", "merge", "-"]
    assert line_of(text, "model-1-2").split()[2:5] == ["to", "score", "-"]
    assert "its mean kinship: not measured" in text


def test_several_recipes_are_named_and_a_single_one_is_not(family, render):
    told = family(merge={"recipe": ["slerp", "linear"]}).with_foundations()
    told.planned(1, ("model-1-1", "Open-chat", "MetaMath", "slerp"), ("model-1-2", "Open-chat", "MetaMath", "linear"))
    text = render(tree_view(told.tree))
    assert line_of(text, "model-1-2").endswith("MetaMath by linear")
    single = family().with_foundations().planned(1, ("model-1-1", "Open-chat", "MetaMath"))
    assert " by slerp" not in render(tree_view(single.tree))


def test_the_kinship_is_in_the_metric_of_the_run(family, render):
    told = family(strategy={"metric": "ed", "stop_at_kinship": None}).with_foundations()
    told.planned(1, ("model-1-1", "Open-chat", "MetaMath")).akin("Open-chat", "MetaMath", 0.05, ed=321.98)
    assert "322.0" in line_of(render(tree_view(told.tree)), "model-1-1")


@pytest.mark.parametrize("length", [30, 60, 100])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_long_names_are_never_cut(family, render, length, width):
    first, second = "a" * (length - 1) + "1", "b" * (length - 1) + "2"
    told = family({first: 60.0, second: 61.0}).with_foundations().planned(1, ("model-1-1", second, first))
    text = render(tree_view(told.akin(first, second, 0.5).merged("model-1-1").evaluated("model-1-1", 62.0).tree), width)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width
    letters = text.replace("\n", "").replace("│", "").replace(" ", "")
    assert letters.count(first) >= 3  # itself, a parent, in S
    assert letters.count(second) >= 3


def test_many_tasks_go_on_below_without_breaking_one(family, render):
    tasks = {f"benchmark_number_{n}": 0.0 for n in range(7)}
    told = family(evaluation={"tasks": [{"task": task} for task in tasks]})
    for name in ("MetaMath", "Instruct", "Open-chat"):
        told.evaluated(name, 50.0, tasks=tasks)
    lines = render(tree_view(told.tree)).splitlines()
    wanted = [line for line in lines if "benchmark" in line]
    assert len(wanted) == 3 * 4  # two a line
    assert all(line.lstrip(" │").startswith("benchmark_number") and line.endswith("50.00") for line in wanted)


def test_text_from_outside_is_neither_markup_nor_terminal_codes(family, render):
    told = family().with_foundations().planned(1, ("model-1-1", "Open-chat", "MetaMath"))
    told.failed("model-1-1", "\x1b[31mgot [bold]7[/bold]\tand [/] more\x07")
    assert "got [bold]7[/bold] and [/] more\n" in render(tree_view(told.tree))


def test_an_output_without_utf_8_gets_ascii(kinship, render):
    text = render(tree_view(kinship), encoding="ascii")
    assert "* best   o in S" in text
    assert "model-1-3 x Open-chat" in text
    assert "?" not in text


def test_gains_are_green_and_losses_red_in_a_terminal(greedy):
    file = io.StringIO()
    Console(file=file, width=80, force_terminal=True, color_system="standard", _environ={}).print(tree_view(greedy))
    assert "\x1b[32m+2.16\x1b[0m" in file.getvalue()
    assert "\x1b[31m-3.96\x1b[0m" in file.getvalue()


def test_a_name_too_long_for_its_numbers_has_a_line_of_its_own(family, render):
    name = "n" * 70
    lines = render(tree_view(family({name: 60.0, "b": 61.0}).with_foundations().tree)).splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("├──"))
    assert lines[at].endswith(name)
    assert lines[at + 1] == "│        60.00 ±0.69"


def test_no_line_ends_in_blanks(kinship):
    file = io.StringIO()
    Console(file=file, width=80).print(tree_view(kinship))
    assert all(line == line.rstrip() for line in file.getvalue().splitlines())
