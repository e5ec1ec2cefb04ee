import io

import pytest
from rich.console import Console

from evolve.views import tree_view
from evolve.views.text import TIMES


def line_of(text, name):
    """Return the line of a model."""
    return next(line for line in text.splitlines() if "──" in line and name in line.split())


def test_the_text_of_a_small_tree(family, render):
    run = family({"math": 63.72, "chat": 66.28}, name="small", strategy={"top_k": 2}).with_foundations()
    run.planned(1, ("model-1-1", "chat", "math")).measured("chat", "math", 0.05).merged("model-1-1")
    run.evaluated("model-1-1", 66.84).planned(
        2, ("model-2-1", "model-1-1", "chat"), ("model-2-exp", "model-1-1", "math")
    )
    run.measured("model-1-1", "chat", 0.93).failed("model-2-1", "CUDA out of memory.\nTraceback")
    run.measured("model-1-1", "math", -0.02).merged("model-2-exp").evaluated("model-2-exp", 64.0, None)
    run.stopped("converged", "the best 2 models are the same as before generation 2: model-1-1, chat")
    assert render(tree_view(run.tree)).replace(TIMES, "x") == (
        "small: kinship strategy, k = 2, kinship by pcc\n"
        "★ best   ● among the best 2   ◇ exploration   ✗ failed   scores in points\n"
        "gain: average minus the mean of the parents' averages\n"
        "vs better: average minus that of the better parent\n"
        "\n"
        "                                            vs\n"
        "       model        average       gain  better     pcc  parents\n"
        "Generation 0: foundation models\n"
        "├──    math         63.72 ±0.69\n"
        "│        winogrande 71.72  gsm8k 53.72  truthfulqa_mc2 65.72\n"
        "└── ●  chat         66.28 ±0.69\n"
        "         winogrande 74.28  gsm8k 56.28  truthfulqa_mc2 68.28\n"
        "Generation 1: every pair of foundations\n"
        "└── ★  model-1-1    66.84 ±0.69  +1.84   +0.56   0.050  chat x math\n"
        "         winogrande 74.84  gsm8k 56.84  truthfulqa_mc2 68.84\n"
        "Generation 2 from the best 2: model-1-1, chat\n"
        "├── ✗  model-2-1    failed                       0.930  model-1-1 x chat\n"
        "│        CUDA out of memory.\n"
        "└──  ◇ model-2-exp  64.00        -1.28   -2.84  -0.020  model-1-1 x math\n"
        "         winogrande 72.00  gsm8k 54.00  truthfulqa_mc2 66.00\n"
        "\n"
        "Best 2: model-1-1, chat; mean kinship: 0.930 (pcc)\n"
        "Stopped: converged after generation 2: the best 2 models are the same as before\n"
        "generation 2: model-1-1, chat\n"
    )


def test_the_tree_of_the_paper_fits_80_columns(kinship, render):
    text = render(tree_view(kinship))
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= 80
    assert line_of(text, "model-2-1").split()[1:] == [
        "●",
        "model-2-1",
        "68.72",
        "±0.69",
        "+2.16",
        "+1.88",
        "0.930",
        "model-1-3",
        TIMES,
        "Open-chat",
    ]
    assert "★  model-3-3" in text
    assert "◇ model-3-exp" in text
    assert "-3.96" in line_of(text, "model-2-2")
    assert "Generation 3 from the best 3: model-2-1, model-2-exp, model-1-3" in text
    assert text.endswith("Not finished: 4 of 4 models of generation 3 are scored\n")


def test_a_wide_terminal_has_one_line_for_each_model(kinship, render):
    text = render(tree_view(kinship), width=140)
    assert "truthfulqa_mc2 70.72" in line_of(text, "model-2-1")
    columns = {line.index("winogrande") for line in text.splitlines() if "winogrande" in line}
    assert len(columns) == 1


def test_a_tree_without_scores(family, render):
    text = render(tree_view(family().tree))
    assert line_of(text, "MetaMath").endswith("MetaMath   to score")
    assert "Best" not in text
    assert "gain:" not in text
    assert "exploration" not in text
    assert "failed" not in text
    assert text.endswith("Not finished: 0 of 3 models of generation 0 are scored\n")


def test_planned_and_merged_children_and_unmeasured_kinship(family, render):
    run = (
        family()
        .with_foundations()
        .planned(1, ("model-1-1", "Open-chat", "MetaMath"), ("model-1-2", "Open-chat", "Instruct"))
    )
    text = render(tree_view(run.merged("model-1-2").tree))
    assert line_of(text, "model-1-1").split()[2:5] == ["to", "merge", "-"]
    assert line_of(text, "model-1-2").split()[2:5] == ["to", "score", "-"]
    assert "mean kinship: not measured" in text


def test_several_recipes_are_named_and_a_single_one_is_not(family, render):
    run = family(merge={"recipe": ["slerp", "linear"]}).with_foundations()
    run.planned(1, ("model-1-1", "Open-chat", "MetaMath", "slerp"), ("model-1-2", "Open-chat", "MetaMath", "linear"))
    text = render(tree_view(run.tree))
    assert line_of(text, "model-1-2").endswith("MetaMath by linear")
    single = family().with_foundations().planned(1, ("model-1-1", "Open-chat", "MetaMath"))
    assert " by slerp" not in render(tree_view(single.tree))


def test_the_kinship_is_in_the_metric_of_the_run(family, render):
    run = family(strategy={"metric": "ed", "stop_at_kinship": None}).with_foundations()
    run.planned(1, ("model-1-1", "Open-chat", "MetaMath")).measured("Open-chat", "MetaMath", 0.05, ed=321.98)
    assert "322.0" in line_of(render(tree_view(run.tree)), "model-1-1")


@pytest.mark.parametrize("length", [30, 60, 100])
@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_long_names_are_not_broken(family, render, length, width):
    first, second = "a" * (length - 1) + "1", "b" * (length - 1) + "2"
    run = family({first: 60.0, second: 61.0}).with_foundations().planned(1, ("model-1-1", second, first))
    text = render(
        tree_view(run.measured(first, second, 0.5).merged("model-1-1").evaluated("model-1-1", 62.0).tree), width
    )
    assert "…" not in text
    assert text.count(first) == text.count(second) == 3  # itself, a parent, among the best


def test_many_tasks_are_wrapped_between_tasks(family, render):
    tasks = {f"benchmark_number_{n}": 0.0 for n in range(7)}
    run = family(evaluation={"tasks": [{"task": task} for task in tasks]})
    for name in ("MetaMath", "Instruct", "Open-chat"):
        run.evaluated(name, 50.0, tasks=tasks)
    lines = render(tree_view(run.tree)).splitlines()
    wanted = [line for line in lines if "benchmark" in line]
    assert len(wanted) == 3 * 4  # two a line
    assert all(line.lstrip(" │").startswith("benchmark_number") and line.endswith("50.00") for line in wanted)


def test_text_from_outside_is_not_parsed_as_markup_or_terminal_codes(family, render):
    run = family().with_foundations().planned(1, ("model-1-1", "Open-chat", "MetaMath"))
    run.failed("model-1-1", "\x1b[31mgot [bold]7[/bold]\tand [/] more\x07")
    assert "got [bold]7[/bold] and [/] more\n" in render(tree_view(run.tree))


def test_an_output_that_is_not_utf_8_gets_ascii(kinship, render):
    text = render(tree_view(kinship), encoding="ascii")
    assert "* best   o among the best 3" in text
    assert "+-- o  model-2-1" in text
    assert "model-1-3 x Open-chat" in text
    assert "?" not in text


def test_improvements_are_green_and_losses_red_in_a_terminal(greedy):
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system="standard", _environ={})
    console.print(tree_view(greedy), crop=False)
    assert "\x1b[32m+1.88\x1b[0m" in file.getvalue()
    assert "\x1b[31m-5.37\x1b[0m" in file.getvalue()


def test_a_child_below_its_better_parent_is_red_although_its_gain_is_positive(kinship):
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system="standard", _environ={})
    console.print(tree_view(kinship), crop=False)
    assert "+2.71" in file.getvalue()  # model-3-exp
    assert "m+2.71" not in file.getvalue()
    assert "\x1b[31m-0.57\x1b[0m" in file.getvalue()


def test_settings_that_differ_among_the_models_are_warnings(family, render):
    differing = {
        "rope_theta": {"base_model": 10000.0, "Instruct": 1000000.0},
        "sliding_window": {"base_model": 4096, "Instruct": None},
    }
    text = render(tree_view(family(differing_settings=differing).tree), width=200)
    assert (
        "Warning: rope_theta differs (base_model: 10000.0, Instruct: 1000000.0); a merge takes the value of parent 1\n"
        "Warning: sliding_window differs (base_model: 4096, Instruct: null); a merge takes the value of parent 1\n"
    ) in text
    assert "Warning" not in render(tree_view(family().tree))


def test_a_name_that_leaves_no_room_for_the_numbers_has_its_own_line(family, render):
    name = "n" * 70
    lines = render(tree_view(family({name: 60.0, "b": 61.0}).with_foundations().tree)).splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("├──"))
    assert lines[at].endswith(name)
    assert lines[at + 1] == "│        60.00 ±0.69"


def test_no_line_ends_in_blanks(kinship):
    file = io.StringIO()
    Console(file=file, width=80).print(tree_view(kinship))
    assert all(line == line.rstrip() for line in file.getvalue().splitlines())
