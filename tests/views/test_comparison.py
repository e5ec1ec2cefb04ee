import pytest

from evolve.views import compare_view


def row(text, label):
    return next(line[len(label) :].strip() for line in text.splitlines() if line.startswith(label))


def test_runs_are_side_by_side(greedy, kinship, render):
    text = render(compare_view({"greedy": greedy, "explore": kinship}))
    assert text.splitlines()[0].split() == ["greedy", "★", "explore"]
    assert row(text, "strategy").split() == ["greedy", "kinship"]
    assert row(text, "kinship by").split() == ["pcc", "pcc"]
    assert row(text, "k  ").split() == ["3", "3"]
    assert row(text, "generations").split() == ["4", "3"]
    assert row(text, "models").split() == ["14", "scored", "14", "scored"]
    assert row(text, "merges").split() == ["11", "11"]
    assert row(text, "evaluations").split() == ["14", "14"]
    assert row(text, "time scoring").split() == ["7", "h", "00", "min"] * 2
    assert row(text, "best model").split() == ["model-2-1", "model-3-3"]
    assert row(text, "best average").split() == ["68.72", "±0.69", "69.06", "±0.69"]
    assert row(text, "over best foundation").split() == ["+2.44", "±0.98", "+2.78", "±0.98"]
    assert row(text, "best of generation 2").split() == ["68.72", "model-2-1", "68.72", "model-2-1"]
    assert row(text, "best of generation 4").split() == ["68.53", "model-4-3", "-"]
    assert row(text, "stopped").split() == ["converged", "after", "4", "not", "yet"]
    assert "cannot be compared" not in text


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"evaluation": {"limit": 10}}, "evaluation.limit"),
        ({"seed": 1}, "seed"),
        ({"versions": {"lm_eval": "0.4.13"}}, "lm_eval"),
    ],
)
def test_runs_that_cannot_be_compared_have_a_warning_and_no_winner(greedy, family, render, config, key):
    other = family(**config).with_foundations().tree
    text = render(compare_view({"greedy": greedy, "other": other}), width=100)
    assert f"The runs differ in {key}: their averages and gains cannot be compared." in text
    assert "★" not in text


def test_runs_without_scores_with_failures_and_with_a_foundation_as_the_best(family, render):
    failed = family().with_foundations().planned(1, ("model-1-1", "Open-chat", "MetaMath")).failed("model-1-1", "no")
    text = render(compare_view({"empty": family().tree, "failed": failed.tree}))
    assert row(text, "best model").split() == ["-", "Open-chat"]
    assert row(text, "models").split() == ["0", "scored", "3", "scored,", "1", "failed"]
    assert row(text, "over best foundation").split() == ["-", "none"]
    assert row(text, "best of generation 1").split() == ["-", "-"]
    assert "★" not in text


def test_many_runs_need_several_tables(kinship, render):
    trees = {f"run-{n}": kinship for n in range(5)}
    text = render(compare_view(trees))
    heads = [line.split() for line in text.splitlines() if "run-" in line]
    assert len(heads) > 1
    assert [word for head in heads for word in head if word != "★"] == list(trees)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    wide = render(compare_view(trees), width=200)
    assert len([line for line in wide.splitlines() if "run-" in line]) == 1


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_long_name_of_a_run_is_not_broken(greedy, kinship, render, width):
    name = "runs/" + "x" * 60
    text = render(compare_view({name: greedy, "b": kinship}), width)
    assert "…" not in text
    assert any(name in line for line in text.splitlines())


def test_a_narrow_terminal_has_one_fact_below_another(greedy, kinship, render):
    lines = render(compare_view({"a": greedy, "b": kinship}), width=20).splitlines()
    assert lines[lines.index("best model") + 1] == "  a model-2-1"
    assert lines.count("  ★ b model-3-3") == 1


def test_cached_scores_are_counted(family, render):
    tree = family().evaluated("MetaMath", 60, reused=True).evaluated("Instruct", 60).evaluated("Open-chat", 60).tree
    assert row(render(compare_view({"a": tree})), "evaluations") == "2 (1 cached)"
