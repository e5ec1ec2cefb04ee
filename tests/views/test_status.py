import shlex

from evolve.views import status_view, summary_view

FOLDER = "runs/paper"


def test_a_run_under_way(kinship, family, render):
    told = (
        family(name="paper")
        .with_foundations()
        .planned(
            1,
            ("model-1-1", "Open-chat", "MetaMath"),
            ("model-1-2", "Open-chat", "Instruct"),
            ("model-1-3", "MetaMath", "Instruct"),
        )
    )
    told.merged("model-1-1").failed("model-1-2", "vocabularies\ndiffer")
    text = render(status_view(told.tree, folder=FOLDER, running="process 7 on box"))
    assert text.startswith("paper in runs/paper\n")
    for line in (
        "state            running: process 7 on box",
        "generation       1 of at most 10: 1 to score, 1 to merge, 1 failed",
        "models           3 scored, 1 to score, 1 to merge, 1 failed",
        "to merge         model-1-3",
        "to score         model-1-1",
        "failed           model-1-2: vocabularies",
        "best             ★ Open-chat  66.28 ±0.69",
        "best foundation  Open-chat  66.28",
        "S (k = 3)        Open-chat 66.28, MetaMath 63.72, Instruct 61.82",
        "kinship of S     not measured; the run stops above 0.9",
        "time             merging 1 min 00 s, scoring 1 h 30 min",
    ):
        assert line in text.splitlines()
    assert "gain over it" not in text


def test_an_interrupted_run_says_how_to_go_on(kinship, render):
    text = render(status_view(kinship, folder="my runs/a", running=None))
    assert "interrupted: go on with `evolve resume 'my runs/a'`" in text
    assert "gain over it     +2.78 ±0.98\n" in text


def test_a_stopped_run_is_stopped_even_while_its_process_ends(greedy, render):
    text = render(status_view(greedy, folder=FOLDER, running="process 7"))
    assert "stopped: converged after generation 4" in text
    assert "running" not in text


def test_nothing_scored_yet(family, render):
    text = render(status_view(family().tree, folder=FOLDER, running=None))
    assert "best        no scores yet\n" in text
    assert "S (k" not in text
    assert "generation  0 of at most 10: 3 to score\n" in text


def test_the_kinship_of_s_and_its_threshold(family, render):
    def kinship_line(**strategy):
        told = family(strategy={"top_k": 2, **strategy}).with_foundations().akin("Open-chat", "MetaMath", 0.05, ed=9.5)
        text = render(status_view(told.tree, folder=FOLDER, running=None))
        return next(line for line in text.splitlines() if line.startswith("kinship of S"))

    assert kinship_line().endswith("0.050 (pcc); the run stops above 0.9")
    assert kinship_line(metric="ed", stop_at_kinship=2.0).endswith("9.500 (ed); the run stops below 2")
    assert kinship_line(stop_at_kinship=None).endswith("0.050 (pcc)")


def test_the_summary_names_the_best_and_what_to_do_with_it(greedy, render):
    text = render(summary_view(greedy, folder=FOLDER))
    lines = text.splitlines()
    assert lines[0] == "★ model-2-1 is the best model: 68.72 ±0.69 points"
    assert lines[1] == "Gain over the best foundation, Open-chat (66.28 ±0.69): +2.44 ±0.98"
    assert lines[2] == "It is larger than two standard errors (errors taken as independent)."
    assert lines[3].startswith("The best of 14 was chosen by these same items")
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
    told = family().with_foundations(stderr).planned(1, ("model-1-1", "Open-chat", "MetaMath")).merged("model-1-1")
    return told.evaluated("model-1-1", average, stderr)


def test_a_gain_within_two_standard_errors_may_be_chance(family, render):
    text = render(summary_view(one_child(family, 67.0).tree, folder=FOLDER))
    assert "+0.72 ±0.98\nIt is not larger than two standard errors" in text


def test_a_gain_with_an_unknown_error_is_not_judged(family, render):
    text = render(summary_view(one_child(family, 67.0, None).tree, folder=FOLDER))
    assert "Open-chat (66.28): +0.72\nIts standard error is not known" in text


def test_no_merge_better_than_a_foundation(family, render):
    told = one_child(family, 60.0).stopped("converged", "same")
    text = render(summary_view(told.tree, folder=FOLDER))
    assert "It is a foundation: no merge is better." in text
    assert "Gain over" not in text
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
