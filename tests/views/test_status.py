import io
import shlex

import pytest
from rich.console import Console

from evolve.lineage import Kinship, KinshipMeasured, plan
from evolve.views import Progress, resume_line, status_view, summary_view

FOLDER = "runs/paper"


def test_a_running_run(family, render):
    run = (
        family(name="paper")
        .with_foundations()
        .planned(
            1,
            ("model-1-1", "Open-chat", "MetaMath"),
            ("model-1-2", "Open-chat", "Instruct"),
            ("model-1-3", "MetaMath", "Instruct"),
        )
    )
    run.merged("model-1-1").failed("model-1-2", "vocabularies\ndiffer")
    progress = Progress("evaluate model-1-1", "loglikelihood requests", 2, 3)
    text = render(status_view(run.tree, folder=FOLDER, running="process 7 on box", progress=progress), width=100)
    assert text.startswith("paper in runs/paper\n")
    for line in (
        "state            running: process 7 on box",
        "step             evaluate model-1-1: loglikelihood requests, 66 %",
        "generation       1 of at most 10: 1 to score, 1 to merge, 1 failed",
        "models           3 scored, 1 to score, 1 to merge, 1 failed",
        "to merge         model-1-3",
        "to score         model-1-1",
        "failed           model-1-2: vocabularies",
        "best             ★ Open-chat  66.28 ±0.69",
        "best foundation  Open-chat  66.28",
        "best 3           Open-chat 66.28, MetaMath 63.72, Instruct 61.82",
        "mean kinship     not measured; the run stops above 0.9",
        "time             merging 1 min 00 s, scoring 1 h 30 min",
        "time left        about 1 h 01 min for generation 1, at most about 19 h 37 min for the run",
        "last event       model-1-2: failed to merge after 2 attempts: vocabularies",
    ):
        assert line in text.splitlines()
    assert "difference" not in text
    assert "resume" not in text


def test_an_interrupted_run_says_why_and_how_to_resume(family, render):
    run = family().at("2026-11-22T12:10:33.462+00:00").with_foundations()
    progress = Progress("evaluate model-1-1", "", 2, 3)
    text = render(status_view(run.tree, folder="my runs/a", running=None, progress=progress), width=120)
    assert "state            interrupted: the run has not finished and no process drives it\n" in text
    assert "reason           the process ended or was ended; the end of my runs/a/run.log says more\n" in text
    assert "next step        measure the kinship of 3 pairs\n" in text
    assert "resume with      evolve resume 'my runs/a'\n" in text
    assert "last event       2026-11-22 12:10:33 UTC: Open-chat: 66.28" in text
    assert "evaluate model-1-1" not in text  # the step of a process that has ended


def test_the_difference_to_the_best_foundation(kinship, render):
    text = render(status_view(kinship, folder=FOLDER, running=None))
    assert "difference       +2.78 ±0.98\n" in text


def test_a_step_without_a_known_total_has_no_percentage(family, render):
    progress = Progress("evaluate MetaMath", "starting", 0, 0)
    text = render(status_view(family().tree, folder=FOLDER, running="process 7", progress=progress))
    assert "step        evaluate MetaMath: starting\n" in text
    assert (Progress("", "", 3, 2).percent, Progress("", "", 0, 7).percent) == (100, 0)


def test_a_stopped_run_is_stopped_even_while_its_process_ends(greedy, render):
    text = render(status_view(greedy, folder=FOLDER, running="process 7"), width=120)
    assert "stopped: converged after generation 4: the best 3 models are the same" in text
    assert "running" not in text
    assert "time left" not in text
    assert "resume" not in text


def test_a_stopped_run_has_no_next_step(greedy, render):
    text = render(status_view(greedy, folder=FOLDER, running=None))
    assert "next step" not in text
    assert "interrupted" not in text


def test_a_run_without_scores(family, render):
    text = render(status_view(family().tree, folder=FOLDER, running=None))
    assert "best         no scores yet\n" in text
    assert "best 3" not in text
    assert "time left" not in text
    assert "generation   0 of at most 10: 3 to score\n" in text


def test_the_kinship_of_the_best_and_its_threshold(family, render):
    def kinship_line(**strategy):
        run = (
            family(strategy={"top_k": 2, **strategy}).with_foundations().measured("Open-chat", "MetaMath", 0.05, ed=9.5)
        )
        text = render(status_view(run.tree, folder=FOLDER, running=None))
        return next(line for line in text.splitlines() if line.startswith("mean kinship"))

    assert kinship_line().endswith("0.050 (pcc); the run stops above 0.9")
    assert kinship_line(metric="ed", stop_at_kinship=2.0).endswith("9.500 (ed); the run stops below 2")
    assert kinship_line(stop_at_kinship=None).endswith("0.050 (pcc)")


def test_the_summary_has_the_best_model_and_commands_for_it(greedy, render):
    text = render(summary_view(greedy, folder=FOLDER))
    lines = text.splitlines()
    assert lines[0] == "★ model-2-1 is the best model: 68.72 ±0.69 points"
    assert lines[1] == "Difference to the best foundation, Open-chat (66.28 ±0.69): +2.44 ±0.98"
    assert lines[2] == "It is larger than two standard errors (errors taken as independent)."
    assert lines[3].startswith("The best of 14 models was chosen on these items")
    assert "stopped      converged after generation 4" in text
    for line in (
        "checkpoint   runs/paper/models/model-2-1",
        "family tree  runs/paper/family_tree.json",
        "journal      runs/paper/journal.jsonl",
        "  evolve tree runs/paper",
        "  evolve show runs/paper model-2-1",
        '  AutoModelForCausalLM.from_pretrained("runs/paper/models/model-2-1")',
    ):
        assert line in lines


def one_child(family, average, stderr=0.012):
    run = family().with_foundations(stderr).planned(1, ("model-1-1", "Open-chat", "MetaMath")).merged("model-1-1")
    return run.evaluated("model-1-1", average, stderr)


def test_a_difference_within_two_standard_errors_may_be_chance(family, render):
    text = render(summary_view(one_child(family, 67.0).tree, folder=FOLDER))
    assert "+0.72 ±0.98\nIt is not larger than two standard errors" in text


def test_a_difference_with_an_unknown_error_is_not_judged(family, render):
    text = render(summary_view(one_child(family, 67.0, None).tree, folder=FOLDER))
    assert "Open-chat (66.28): +0.72\nIts standard error is not known" in text


def test_a_foundation_is_the_best_model(family, render):
    run = one_child(family, 60.0).stopped("converged", "same")
    text = render(summary_view(run.tree, folder=FOLDER))
    assert "It is a foundation: no merge is better." in text
    assert "Difference to" not in text
    assert "checkpoint   /models/Open-chat" in text
    assert 'from_pretrained("/models/Open-chat")' in text


def test_a_failed_run_without_scores_has_a_summary(family, render):
    text = render(summary_view(family().tree, folder=FOLDER))
    assert text.startswith("No model was scored.\n")
    assert "evolve tree runs/paper" in text
    assert "evolve show" not in text


def test_commands_are_quoted_for_the_shell(greedy, render):
    text = render(summary_view(greedy, folder="it's mine"))
    line = next(line for line in text.splitlines() if "evolve show" in line)
    assert shlex.split(line) == ["evolve", "show", "it's mine", "model-2-1"]


def test_the_resume_line_names_the_next_step(family):
    run = family()
    assert resume_line(run.tree) == (
        "resuming in generation 0: 0 of 3 models scored, next: measure the kinship of 3 pairs"
    )
    for a, b in (("Open-chat", "MetaMath"), ("Open-chat", "Instruct"), ("MetaMath", "Instruct")):
        run.apply(KinshipMeasured(a=a, b=b, kinship=Kinship(pcc=0.1, cs=0.1, ed=1.0)))
    assert resume_line(run.tree) == "resuming in generation 0: 0 of 3 models scored, next: evaluate Instruct"
    run.with_foundations()
    assert resume_line(run.tree) == "resuming in generation 0: 3 of 3 models scored, next: plan generation 1"
    run.apply(plan(run.tree))
    assert resume_line(run.tree) == "resuming in generation 1: 0 of 3 models scored, next: merge model-1-1"
    run.merged("model-1-1").failed("model-1-2", "no").merged("model-1-3").evaluated("model-1-3", 50)
    assert resume_line(run.tree) == (
        "resuming in generation 1: 1 of 3 models scored, 1 failed, next: evaluate model-1-1"
    )


def test_the_resume_line_of_a_run_with_nothing_left_to_do(greedy, family):
    assert resume_line(greedy).startswith("the run has finished: converged after generation 4: ")
    run = family(strategy={"max_generations": 1, "stop_at_kinship": None}).with_foundations()
    run.planned(1, ("model-1-1", "Open-chat", "MetaMath")).measured("Open-chat", "MetaMath", 0.1)
    run.merged("model-1-1").evaluated("model-1-1", 50)
    assert resume_line(run.tree).endswith("1 of 1 models scored, next: stop (budget)")
    run.tree.apply(plan(run.tree))
    assert resume_line(run.tree).startswith("the run has finished: budget")


@pytest.mark.parametrize("width", [20, 40])
def test_commands_are_never_wrapped(greedy, kinship, render, width):
    text = render(summary_view(greedy, folder="my own runs/greedy"), width)
    assert "  evolve show 'my own runs/greedy' model-2-1\n" in text
    assert '  AutoModelForCausalLM.from_pretrained("my own runs/greedy/models/model-2-1")\n' in text
    text = render(status_view(kinship, folder="my own runs/kinship", running=None), width)
    assert "  evolve resume 'my own runs/kinship'\n" in text


def test_only_the_label_of_a_fact_is_dim(family):
    file = io.StringIO()
    console = Console(file=file, width=100, force_terminal=True, color_system="standard", _environ={})
    console.print(status_view(family().tree, folder=FOLDER, running="process 7"), crop=False)
    assert "\x1b[2mgeneration\x1b[0m  0 of at most 10" in file.getvalue()
