"""Loading a configuration: each error is one line with file, key, value and fix."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from evolve.config import METRICS, AdapterSource, Config, StrategyConfig, dump_config, load_config
from evolve.config.reference import Setting, settings
from evolve.errors import ConfigError

MODELS = "base_model: org/base\nfoundation_models: {A: org/a, B: org/b}\n"
JARGON = re.compile(r"pydantic|string should|input should|pattern|tuple|valid string|function-|AdapterSource|\bNone\b")


@pytest.fixture
def load(tmp_path):
    def load(text: str, *overrides: str) -> Config:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, overrides)

    return load


@pytest.fixture
def problems(load, tmp_path):
    """Returns the lines of the error of a text, without the path that each begins with."""

    def problems(text: str, *overrides: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides)
        prefix = f"{tmp_path / 'run.yaml'}: "
        lines = str(caught.value).split("\n")
        assert all(line.startswith((prefix, "--set ")) for line in lines)
        assert not [line for line in lines if JARGON.search(line)]
        return [line.removeprefix(prefix) for line in lines]

    return problems


def strategy(settings: str) -> str:
    return f"{MODELS}strategy: {{{settings}}}\n"


def evaluation(settings: str) -> str:
    return f"{MODELS}evaluation: {{{settings}}}\n"


def foundations(*lines: str) -> str:
    return "base_model: org/base\nfoundation_models:\n" + "".join(f"  {line}\n" for line in lines)


# ----------------------------------------------------------------------------------------------------------- the file


def test_two_keys_are_enough(load):
    config = load(MODELS)

    assert config.name == "run"
    assert [task.task for task in config.evaluation.tasks] == ["winogrande", "gsm8k", "truthfulqa_mc2"]
    assert (config.strategy.name, config.strategy.top_k, config.strategy.stop_at_kinship) == ("kinship", 3, 0.9)


@pytest.mark.parametrize(("stem", "name"), [("mistral-7b", "mistral-7b"), ("my run+2", "my-run-2"), ("_", "run")])
def test_the_default_name_of_a_run_is_that_of_its_file(tmp_path, stem, name):
    path = tmp_path / f"{stem}.yaml"
    path.write_text(MODELS)

    assert load_config(path).name == name


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "no.yaml")

    assert str(caught.value) == f"{tmp_path / 'no.yaml'}: there is no such file; give the path of a configuration file"


def test_a_folder(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path)

    assert str(caught.value) == f"{tmp_path}: is a folder, not a regular file; give the path of a configuration file"


def test_a_binary_file(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"\xff\xfe\x00\x01")

    with pytest.raises(ConfigError) as caught:
        load_config(path)

    assert str(caught.value) == f"{path}: is not UTF-8 text; give the path of a configuration file"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "holds nothing and not a mapping; it needs at least base_model and foundation_models"),
        ("# only a comment\n", "holds nothing and not a mapping; it needs at least base_model and foundation_models"),
        ("- a\n- b\n", "holds a list and not a mapping; it needs at least base_model and foundation_models"),
        ("hello", "holds a string and not a mapping; it needs at least base_model and foundation_models"),
        ("a: [1, 2\nb: 3\n", "line 2: not valid YAML: expected ',' or ']', but got ':'; fix the syntax there"),
        ("a: b: c\n", "line 1: not valid YAML: mapping values are not allowed here; fix the syntax there"),
        ("a: 1\n---\nb: 2\n", "line 2: not valid YAML: found another document; fix the syntax there"),
        ("a: \x01\n", "not valid YAML: special characters are not allowed; fix the syntax there"),
        (
            "a: 2024-13-45\n",
            "not valid YAML: month must be in 1..12; put a string that looks like a date in quotes",
        ),
        ("[" * 5000, "line 1: not valid YAML: it is nested too deeply; fix the brackets"),
        ("name: x\nseed: 1\nname: y\n", "line 3: the key 'name' is also in line 1; keep one of the two"),
        (
            "strategy:\n  top_k: 2\n  metric: pcc\n  top_k: 3\n",
            "line 4: the key 'top_k' is also in line 2; keep one of the two",
        ),
        (
            "evaluation:\n  tasks:\n    - {task: a,\n       task: b}\n",
            "line 4: the key 'task' is also in line 3; keep one of the two",
        ),
        ("seed: 1\non: 2\n", "line 2: the key on is not a string; put it in quotes"),
        (foundations("7: org/a", "B: org/b"), "line 3: the key 7 is not a string; put it in quotes"),
    ],
)
def test_a_file_that_is_not_a_mapping(problems, text, problem):
    assert problems(text) == [problem]


def test_a_mapping_may_override_keys_that_it_merges(load):
    config = load(
        "base_model: org/base\nfoundation_models: {A: org/a, B: org/b}\n"
        "evaluation:\n  tasks:\n"
        "    - &first {task: a, num_fewshot: 5, limit: 10}\n"
        "    - {<<: *first, task: b, num_fewshot: 0}\n"
    )

    found = [(task.task, task.num_fewshot, task.limit) for task in config.evaluation.tasks]
    assert found == [("a", 5, 10), ("b", 0, 10)]


# ----------------------------------------------------------------------------------------------------------- the keys

LONG_RULE = "a name has at most 100 characters, and this one has 101; shorten it"
NAME_RULE = "a name has letters, digits, '-', '_' and single '.', and begins with a letter or a digit; rename it"
CHILD_RULE = "names of the form model-<generation>-<n> are reserved for children; rename it"
TWO_NAMES = "it must be a mapping of at least two names to folders or Hub ids"
SOURCE = "it must be a folder or a Hub id, or a mapping of model and adapter"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (MODELS + "strateg: 1\n", "strateg = 1: unknown key; did you mean strategy?"),
        (strategy("topk: 4"), "strategy.topk = 4: unknown key; did you mean top_k?"),
        (
            strategy("zzzzzz: 4"),
            (
                "strategy.zzzzzz = 4: unknown key; the known ones are name, metric, top_k, pairs_per_generation, "
                "stop_at_kinship, max_generations"
            ),
        ),
        (
            evaluation("tasks: [{task: a}, {task: b, weigth: 2}]"),
            "evaluation.tasks.1.weigth = 2: unknown key; did you mean weight?",
        ),
        (
            foundations("A: {model: org/a, adapter: org/x, adaptor: org/y}", "B: org/b"),
            'foundation_models.A.adaptor = "org/y": unknown key; did you mean adapter?',
        ),
        (foundations("A: org/a"), 'foundation_models = {"A": "org/a"}: ' + TWO_NAMES),
        (
            "base_model: org/base\nfoundation_models: [org/a, org/b]\n",
            'foundation_models = ["org/a", "org/b"]: ' + TWO_NAMES,
        ),
        (foundations("A: 5", "B: org/b"), f"foundation_models.A = 5: {SOURCE}"),
        (foundations("A: ''", "B: org/b"), f'foundation_models.A = "": {SOURCE}'),
        (
            foundations("A: {model: org/a}", "B: org/b"),
            "foundation_models.A.adapter: is missing; give a folder or a Hub id of a LoRA adapter",
        ),
        (foundations("a+b: org/a", "B: org/b"), f"foundation_models.a+b: {NAME_RULE}"),
        (foundations("a@b: org/a", "B: org/b"), f"foundation_models.a@b: {NAME_RULE}"),
        (foundations("a/b: org/a", "B: org/b"), f"foundation_models.a/b: {NAME_RULE}"),
        (foundations("a b: org/a", "B: org/b"), f"foundation_models.a b: {NAME_RULE}"),
        (foundations("a..b: org/a", "B: org/b"), f"foundation_models.a..b: {NAME_RULE}"),
        (foundations("..: org/a", "B: org/b"), f"foundation_models...: {NAME_RULE}"),
        (foundations("'a[1]': org/a", "B: org/b"), f"foundation_models.a[1]: {NAME_RULE}"),
        (foundations("model-1-2: org/a", "B: org/b"), f"foundation_models.model-1-2: {CHILD_RULE}"),
        (foundations("model-12-exp: org/a", "B: org/b"), f"foundation_models.model-12-exp: {CHILD_RULE}"),
        (foundations("model-2-exp-2: org/a", "B: org/b"), f"foundation_models.model-2-exp-2: {CHILD_RULE}"),
        (
            foundations("A: org/a", "B: org/b", "C: org/a"),
            'foundation_models.C = "org/a": foundation_models.A is the same model; list it once',
        ),
        (
            foundations("A: org/a", "B: org/base"),
            'foundation_models.B = "org/base": it is the base model, so its delta is zero; leave it out',
        ),
        (MODELS + "name: a/b\n", f'name = "a/b": {NAME_RULE}'),
        (MODELS + 'name: "a\\nb"\n', f'name = "a\\nb": {NAME_RULE}'),
        (MODELS + "device: gpu\n", 'device = "gpu": it must be auto, cpu, cuda or cuda:<number>'),
        (MODELS + "seed: -1\n", "seed = -1: it must be a whole number from 0 to 2147483647"),
        (
            MODELS + "strategy:\n",
            "strategy = null: it must be a mapping; if it is left out, its keys have their defaults",
        ),
        (
            strategy("name: greed"),
            'strategy.name = "greed": it must be kinship (with exploration merges) or greedy (without)',
        ),
        (
            strategy("metric: euclid"),
            (
                'strategy.metric = "euclid": it must be pcc (Pearson correlation), cs (cosine similarity) or '
                "ed (Euclidean distance)"
            ),
        ),
        (
            strategy("top_k: many"),
            'strategy.top_k = "many": it must be a whole number from 2 to 1000: how many of the best models are paired',
        ),
        (
            strategy("top_k: 1"),
            "strategy.top_k = 1: it must be a whole number from 2 to 1000: how many of the best models are paired",
        ),
        (
            strategy("top_k: true"),
            "strategy.top_k = true: it must be a whole number from 2 to 1000: how many of the best models are paired",
        ),
        (
            strategy("top_k: 2.5"),
            "strategy.top_k = 2.5: it must be a whole number from 2 to 1000: how many of the best models are paired",
        ),
        (
            strategy("stop_at_kinship: 7"),
            "strategy.stop_at_kinship = 7.0: with metric pcc it must be a number from -1 to 1, or null",
        ),
        (
            strategy("metric: ed"),
            (
                "strategy.stop_at_kinship = 0.9: with metric ed it is a distance, so the default has no "
                "meaning; set it to null, or to a distance below which the run stops"
            ),
        ),
        (
            strategy("metric: ed, stop_at_kinship: 0"),
            "strategy.stop_at_kinship = 0.0: with metric ed it is a distance; it must be a number above 0, or null",
        ),
        (
            MODELS + "merge: {recipe: []}\n",
            "merge.recipe = []: the list is empty; name at least one template, for example slerp-gradient",
        ),
        (MODELS + "merge: {recipe: [a, a]}\n", 'merge.recipe = ["a", "a"]: a template is listed twice; list each once'),
        (
            MODELS + "merge: {recipe: [a, 5]}\n",
            "merge.recipe.1 = 5: it must be the name of a template in recipes/, or a path of one",
        ),
        (
            MODELS + "merge: {recipe: 5}\n",
            "merge.recipe = 5: it must be the name of a template in recipes/, a path of one, or a list of these",
        ),
        (MODELS + "merge: {dtype: bf16}\n", 'merge.dtype = "bf16": it must be bfloat16, float16 or float32'),
        (
            evaluation("tasks: [{task: gsm8k, metric: acc}]"),
            (
                "evaluation.tasks.0.metric = \"acc\": it must be lm-eval's metric and filter, for example 'acc,none' "
                "or 'exact_match,strict-match'"
            ),
        ),
        (
            evaluation("tasks: [winogrande]"),
            (
                'evaluation.tasks.0 = "winogrande": it must be a mapping with at least the key task, for '
                "example {task: winogrande}"
            ),
        ),
        (evaluation("tasks: []"), "evaluation.tasks = []: it must be a list of at least one task"),
        (evaluation("tasks: winogrande"), 'evaluation.tasks = "winogrande": it must be a list of at least one task'),
        (
            evaluation("tasks: [{metric: 'acc,none'}]"),
            "evaluation.tasks.0.task: is missing; give the name of an lm-eval task",
        ),
        (
            evaluation("tasks: [{task: a, weight: 0}]"),
            "evaluation.tasks.0.weight = 0: it must be a number from 1e-6 to 1e6: the task's weight in the average",
        ),
        (
            evaluation("tasks: [{task: a, weight: 1.0e-7}]"),
            "evaluation.tasks.0.weight = 1e-07: it must be a number from 1e-6 to 1e6: the task's weight in the average",
        ),
        (
            evaluation("tasks: [{task: a, weight: 2.0e+16}]"),
            "evaluation.tasks.0.weight = 2e+16: it must be a number from 1e-6 to 1e6: the task's weight in the average",
        ),
        (
            evaluation("tasks: [{task: a}, {task: b}, {task: a}]"),
            'evaluation.tasks = ["a", "b", "a"]: task a is listed twice; list each task once',
        ),
        (
            evaluation("tasks: [{task: a}], datasets: {b: /data/b}"),
            'evaluation.datasets.b = "/data/b": b is not among the tasks (a); list it there or remove it here',
        ),
        (
            evaluation("tasks: [{task: a}], datasets: {a: 5}"),
            "evaluation.datasets.a = 5: it must be a folder with <split>.jsonl or <split>.parquet",
        ),
        (
            evaluation("datasets: x"),
            'evaluation.datasets = "x": it must be a mapping of tasks to folders with <split>.jsonl or <split>.parquet',
        ),
        (
            evaluation("task_dirs: [1]"),
            "evaluation.task_dirs.0 = 1: it must be a folder with task YAML files of your own",
        ),
        (
            evaluation("model_args: {pretrained: org/a}"),
            'evaluation.model_args.pretrained = "org/a": evolve sets it for each model; remove it',
        ),
        (
            evaluation("model_args: {x: .nan}"),
            'evaluation.model_args = {"x": NaN}: its numbers must be finite; give a finite number, or null',
        ),
        (
            evaluation("model_args: {x: [2024-01-31]}"),
            'evaluation.model_args = {"x": ["2024-01-31"]}: YAML reads 2024-01-31 as a date; put it in quotes',
        ),
        (
            evaluation("limit: true"),
            (
                "evaluation.limit = true: it must be a whole number of documents of each task from 1 to 1000000000, or "
                "null for all"
            ),
        ),
        *(
            (
                evaluation(f"batch_size: {value}"),
                (
                    f"evaluation.batch_size = {shown}: it must be a whole number of requests in a batch from 1 to "
                    "100000, or auto"
                ),
            )
            for value, shown in (("0", "0"), ("true", "true"), ("automatic", '"automatic"'), ("1.5", "1.5"))
        ),
        (
            evaluation("apply_chat_template: maybe"),
            'evaluation.apply_chat_template = "maybe": it must be true or false',
        ),
    ],
)
def test_each_wrong_key_or_value_gives_one_line(problems, text, problem):
    assert problems(text) == [problem]


@pytest.mark.parametrize(
    ("text", "key", "most"),
    [
        (evaluation(f"limit: {10**30}"), "evaluation.limit", "1000000000"),
        (evaluation(f"batch_size: {10**30}"), "evaluation.batch_size", "100000"),
        (evaluation(f"tasks: [{{task: gsm8k, limit: {10**30}}}]"), "evaluation.tasks.0.limit", "1000000000"),
        (evaluation(f"tasks: [{{task: gsm8k, num_fewshot: {10**30}}}]"), "evaluation.tasks.0.num_fewshot", "1000"),
        (strategy(f"top_k: {10**30}"), "strategy.top_k", "1000"),
        (strategy(f"pairs_per_generation: {10**30}"), "strategy.pairs_per_generation", "1000000"),
        (strategy(f"max_generations: {10**30}"), "strategy.max_generations", "100000"),
        (f"{MODELS}attempts: {10**30}\n", "attempts", "1000"),
    ],
)
def test_a_number_beyond_all_sizes_is_refused_with_the_largest_one(problems, text, key, most):
    (line,) = problems(text)
    assert line.startswith(f"{key} = {10**30}: it must be a whole number ")
    assert f" to {most}" in line


@pytest.mark.parametrize("weight", ["5e-324", "1e308"])
def test_a_weight_that_breaks_an_average_is_refused(problems, weight):
    (line,) = problems(evaluation(f"tasks: [{{task: gsm8k, weight: {weight}}}]"))
    assert "it must be a number from 1e-6 to 1e6: the task's weight in the average" in line


def _nested_keys() -> list[Setting]:
    found = [setting for setting in settings() if setting.section]
    names = Counter(setting.name for setting in settings())
    return [setting for setting in found if names[setting.name] == 1]


@pytest.mark.parametrize("setting", _nested_keys(), ids=lambda setting: setting.name)
def test_a_nested_key_at_the_top_level_names_its_place(problems, setting):
    assert problems(MODELS + f"{setting.name}: 1\n") == [
        f"{setting.name} = 1: unknown key; did you mean {setting.key}?"
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (MODELS + "max_generation: 4\n", "max_generation = 4: unknown key; did you mean strategy.max_generations?"),
        (
            MODELS + "limit: 5\n",
            "limit = 5: unknown key; did you mean evaluation.limit or evaluation.tasks.<n>.limit?",
        ),
        (strategy("recipe: ties"), 'strategy.recipe = "ties": unknown key; did you mean merge.recipe?'),
        (strategy("seed: 4"), "strategy.seed = 4: unknown key; did you mean the top-level key seed?"),
    ],
)
def test_a_key_in_the_wrong_section_names_the_right_one(problems, text, problem):
    assert problems(text) == [problem]


def test_the_metrics_of_the_schema_are_those_of_the_table():
    assert get_args(StrategyConfig.model_fields["metric"].annotation) == tuple(METRICS)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_a_threshold_lies_in_the_range_of_its_metric(load, problems, metric):
    least, most = metric.range
    inside = 0.5 if math.isfinite(most) else 12.5
    assert load(strategy(f"metric: {metric.name}, stop_at_kinship: {inside}")).strategy.stop_at_kinship == inside
    for outside in (least - 0.5, *([most + 0.5] if math.isfinite(most) else [])):
        (line,) = problems(strategy(f"metric: {metric.name}, stop_at_kinship: {outside}"))
        assert line.startswith(f"strategy.stop_at_kinship = {outside}: with metric {metric.name} it ")


def test_a_batch_size_is_a_number_or_auto(load):
    assert load(evaluation("batch_size: 4")).evaluation.batch_size == 4
    assert load(evaluation("batch_size: auto")).evaluation.batch_size == "auto"


def test_each_error_has_its_own_line(problems):
    text = foundations("a+b: {model: org/a}", "B: org/b") + "sead: 1\nstrategy: {top_k: 1, metric: no}\n"

    found = [line.partition(" ")[0].rstrip(":") for line in problems(text)]

    assert sorted(found) == [
        "foundation_models.a+b",
        "foundation_models.a+b.adapter",
        "sead",
        "strategy.metric",
        "strategy.top_k",
    ]


def test_missing_keys_are_named_with_their_valid_values(problems):
    assert problems("seed: 1\n") == [
        "base_model: is missing; give a folder or a Hub id of the model that all others descend from",
        "foundation_models: is missing; give a mapping of at least two names to folders or Hub ids",
    ]


def test_a_long_value_is_shortened(problems):
    (line,) = problems(MODELS + f"device: {'x' * 500}\n")

    assert "xxx...: it must be auto" in line
    assert len(line) < 320


def test_a_line_break_in_a_key_is_escaped(problems):
    (line,) = problems(foundations('"a\\nb": org/a', "B: org/b"))

    assert line == f"foundation_models.a\\nb: {NAME_RULE}"


@pytest.mark.parametrize("name", ["AdapterSource", "str", "model-1", "a.b", "7B", "model-1-2-x"])
def test_unusual_valid_names(load, name):
    assert set(load(foundations(f"'{name}': org/a", "B: org/b")).foundation_models) == {name, "B"}


# ---------------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("other", ["./models/a", "models/x/../a", "models/a/", "{}/models/a", "models/link"])
def test_two_paths_of_one_folder_are_the_same_model(problems, tmp_path, other):
    (tmp_path / "models" / "a").mkdir(parents=True)
    (tmp_path / "models" / "link").symlink_to("a")

    (line,) = problems(foundations("A: models/a", f"B: {other.format(tmp_path)}"))

    assert (
        line
        == f'foundation_models.B = "{tmp_path / "models" / "a"}": foundation_models.A is the same model; list it once'
    )


def test_another_path_of_the_base_among_the_foundations_is_refused(problems, tmp_path):
    (tmp_path / "base").mkdir()

    (line,) = problems("base_model: ./base\nfoundation_models: {A: org/a, B: base}\n")

    assert line.startswith(f'foundation_models.B = "{tmp_path / "base"}": it is the base model')


def test_relative_paths_are_relative_to_the_file(tmp_path, monkeypatch):
    folder, elsewhere = tmp_path / "configs", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "local").mkdir()
    (folder / "run.yaml").write_text(
        "base_model: ../base\n"
        "foundation_models:\n"
        "  A: ./a\n"
        "  B: local\n"
        "  C: {model: org/c, adapter: ../adapters/c}\n"
        "merge: {recipe: [slerp, my/recipe.yaml, other.yml]}\n"
        "evaluation: {tasks: [{task: t}], datasets: {t: data/t}, task_dirs: [tasks]}\n"
    )
    monkeypatch.chdir(elsewhere)

    config = load_config(Path("../configs/run.yaml"))

    assert config.base_model == str(tmp_path / "base")
    assert config.foundation_models == {
        "A": str(folder / "a"),
        "B": str(folder / "local"),
        "C": AdapterSource(model="org/c", adapter=str(tmp_path / "adapters" / "c")),
    }
    assert config.merge.recipes == ("slerp", str(folder / "my" / "recipe.yaml"), str(folder / "other.yml"))
    assert config.evaluation.datasets == {"t": folder / "data" / "t"}
    assert config.evaluation.task_dirs == (folder / "tasks",)


def test_a_tilde_is_expanded(load, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))

    assert load("base_model: ~/base\nfoundation_models: {A: org/a, B: org/b}\n").base_model == str(tmp_path / "base")


@pytest.mark.parametrize("source", ["gpt2", "org/model", "org/model@main", "org/model@0123abc"])
def test_hub_ids_are_not_changed(load, source):
    config = load(foundations(f"A: {source}", "B: org/b"))

    assert config.foundation_models["A"] == source


@pytest.mark.parametrize("source", ["~no-such-user-here/a", '"/a\\0b"', "x" * 5000])
def test_an_impossible_path_is_left_to_the_search_for_the_model(load, source):
    config = load(foundations(f"A: {source}", "B: org/b"))

    assert config.foundation_models["A"] == source.strip('"').replace("\\0", "\0")


# ------------------------------------------------------------------------------------------------------------ overrides


def test_overrides_replace_values_of_the_file_and_are_yaml(load):
    config = load(
        strategy("top_k: 2, name: greedy"),
        "strategy.top_k=4",
        "strategy.stop_at_kinship=null",
        "merge.dtype=float32",
        "evaluation.model_args={dtype: float16}",
        "evaluation.model_args.trust = yes",
        "foundation_models.C=org/c",
        "name=other",
    )

    assert (config.strategy.top_k, config.strategy.name, config.strategy.stop_at_kinship) == (4, "greedy", None)
    assert (config.merge.dtype, config.name) == ("float32", "other")
    assert config.evaluation.model_args == {"dtype": "float16", "trust": True}
    assert list(config.foundation_models) == ["A", "B", "C"]


def test_an_override_of_a_name_with_dots(load):
    config = load(
        foundations("v0: org/0", "v0.1: org/a", "v0.2: {model: org/b, adapter: org/x}"),
        "foundation_models.v0.1=org/c",
        "foundation_models.v0.2.adapter=org/y",
    )

    assert config.foundation_models == {
        "v0": "org/0",
        "v0.1": "org/c",
        "v0.2": AdapterSource(model="org/b", adapter="org/y"),
    }


def test_an_override_changes_no_other_key_that_shares_its_value_by_an_alias(load):
    text = MODELS + "evaluation:\n  tasks:\n    - {task: a, generation_kwargs: &shared {x: 1}}\n  model_args: *shared\n"

    config = load(text, "evaluation.model_args.x=2")

    assert config.evaluation.model_args == {"x": 2}
    assert config.evaluation.tasks[0].generation_kwargs == {"x": 1}


TASKS = evaluation("tasks: [{task: a}, {task: b, weight: 2}], task_dirs: [one, two]")


def test_an_override_of_an_item_of_a_list(load, tmp_path):
    config = load(
        TASKS,
        "evaluation.tasks.0.metric=f1,none",
        "evaluation.tasks.1={task: c}",
        "evaluation.task_dirs.1=three",
        "merge.recipe=[slerp, ties]",
        "merge.recipe.1=linear",
    )

    assert [(task.task, task.metric, task.weight) for task in config.evaluation.tasks] == [
        ("a", "f1,none", 1.0),
        ("c", "acc,none", 1.0),
    ]
    assert config.evaluation.task_dirs == (tmp_path / "one", tmp_path / "three")
    assert config.merge.recipes == ("slerp", "linear")


def test_an_override_of_an_item_changes_no_other_list_that_shares_it_by_an_alias(load):
    shared = "generation_kwargs: {until: &shared [x, y]}"
    text = evaluation(f"tasks: [{{task: a, {shared}}}], model_args: {{until: *shared}}")

    config = load(text, "evaluation.model_args.until.0=z")

    assert config.evaluation.model_args == {"until": ["z", "y"]}
    assert config.evaluation.tasks[0].generation_kwargs == {"until": ["x", "y"]}


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        *(
            (
                TASKS,
                f"evaluation.tasks.{item}",
                f"evaluation.tasks is a list and has no item {item}; give a number from 0 to 1",
            )
            for item in ("2", "-1", "first", "0x1")
        ),
        (evaluation("tasks: []"), "evaluation.tasks.0", "evaluation.tasks is an empty list; set it as a whole"),
        (
            MODELS,
            "evaluation.tasks.0",
            "the file does not give evaluation.tasks, so it has no item 0; set evaluation.tasks as a whole",
        ),
        (TASKS, "evaluation.tasks.0.task", "evaluation.tasks.0.task is not a mapping; set it as a whole"),
    ],
)
def test_an_override_of_an_item_that_does_not_exist(problems, text, key, reason):
    assert problems(text, f"{key}.metric=f1,none") == [f"--set {key}.metric=f1,none: {reason}"]


FORM = "is not of the form key=value; write for example strategy.top_k=4"


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("top_k", f"--set top_k: {FORM}"),
        ("", f"--set : {FORM}"),
        ("=3", f"--set =3: {FORM}"),
        ("strategy..top_k=3", f"--set strategy..top_k=3: {FORM}"),
        (".=3", f"--set .=3: {FORM}"),
        ("seed=[1", "--set seed=[1: the value is not valid YAML; quote it"),
        ("seed={a: 1, a: 2}", "--set seed={a: 1, a: 2}: the value is not valid YAML; quote it"),
        ("seed=2024-13-45", "--set seed=2024-13-45: the value is not valid YAML; quote it"),
        ("base_model.x=1", "--set base_model.x=1: base_model is not a mapping; set it as a whole"),
        ("strategy.topk=3", "strategy.topk = 3: unknown key; did you mean top_k?"),
    ],
)
def test_a_wrong_override_gives_one_line(problems, override, problem):
    assert problems(MODELS, override) == [problem]


# ----------------------------------------------------------------------------------------------------------- round trip


def test_a_dumped_configuration_loads_as_equal(load, tmp_path):
    (tmp_path / "local").mkdir()
    config = load(
        "base_model: ./base\n"
        "foundation_models: {A: org/a@main, B: local, C: {model: org/c, adapter: ./c}, v0.1: '123'}\n"
        "seed: 7\n"
        "strategy: {metric: ed, stop_at_kinship: 12.5, pairs_per_generation: 2}\n"
        "merge: {recipe: [slerp, ./mine.yaml], tokenizer: union}\n"
        "evaluation:\n"
        "  tasks:\n"
        "    - {task: a, metric: 'f1,none', weight: 0.1, limit: 3, generation_kwargs: "
        "{until: ['\\n'], deep: {x: [1, null]}}}\n"
        "    - {task: b}\n"
        "  datasets: {b: data}\n"
        "  task_dirs: [mine]\n"
        "  model_args: {dtype: float32, revision: '2024-01-31', ratio: 1.0e-30, text: 'yes', big: '1e5', ü: é}\n"
    )

    again = tmp_path / "elsewhere" / "config.yaml"
    again.parent.mkdir()
    again.write_text(dump_config(config), encoding="utf-8")

    assert load_config(again) == config
    assert dump_config(load_config(again)) == again.read_text(encoding="utf-8")
    assert Config.model_validate(config.model_dump(mode="json")) == config


def test_a_dump_has_every_default(load):
    text = dump_config(load(MODELS))

    for key in ("stop_at_kinship: 0.9", "pairs_per_generation: null", "recipe: slerp-gradient", "device: auto"):
        assert key in text


def test_an_unreadable_file(tmp_path, monkeypatch):
    def refuse(path: Path, _: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "run.yaml").write_text("name: a", encoding="utf-8")
    monkeypatch.setattr("evolve.files.os.open", refuse)

    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "run.yaml")

    assert str(caught.value) == f"{tmp_path / 'run.yaml'}: cannot be read (Permission denied); make it readable"


def test_no_foundation_may_be_named_base_model(problems):
    (line,) = problems(foundations("base_model: org/a", "B: org/b"))

    assert line == "foundation_models.base_model: base_model is the name of the base model; rename it"


def test_names_that_are_too_long(problems, load):
    assert problems(MODELS + f"name: {'n' * 101}\n") == [f'name = "{"n" * 101}": {LONG_RULE}']
    assert problems(foundations(f"{'m' * 101}: org/a", "B: org/b")) == [f"foundation_models.{'m' * 101}: {LONG_RULE}"]
    assert load(MODELS + f"name: {'n' * 100}\n").name == "n" * 100


def test_a_file_with_a_long_name_gives_a_name_that_is_valid(tmp_path):
    path = tmp_path / f"{'n' * 200}.yaml"
    path.write_text(MODELS, encoding="utf-8")

    assert load_config(path).name == "n" * 100


def test_a_file_that_never_ends_is_not_read(tmp_path):
    path = tmp_path / "run.yaml"
    path.symlink_to("/dev/zero")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value) == f"{path}: is a device, not a regular file; give the path of a configuration file"


@pytest.mark.parametrize("override", ["a." * 15_000 + "b=1", "x" * 30_000, f"evaluation.limit={'9' * 30_000}"])
def test_a_long_setting_gives_a_short_message_at_once(problems, override):
    (line,) = problems(MODELS, override)

    assert line.startswith(f"--set {override[:117]}...: ")
    assert len(line) < 300


@pytest.mark.parametrize(("given", "expected"), [("off", "off"), ("'off'", "off"), ("auto", "auto")])
def test_prefix_sharing_is_read_as_a_word(load, given, expected):
    """YAML reads `off` as false."""
    config = load(evaluation(f"prefix_sharing: {given}"))

    assert config.evaluation.prefix_sharing == expected
    assert config.evaluation.shares_prefixes is (expected == "auto")
    assert load(dump_config(config)) == config


@pytest.mark.parametrize("given", ["true", "on", "always", "1", "null"])
def test_another_word_for_prefix_sharing_is_refused(load, given):
    with pytest.raises(ConfigError, match=r"evaluation\.prefix_sharing = .*: it must be auto or off"):
        load(evaluation(f"prefix_sharing: {given}"))


def test_other_examples_than_the_two_kinds_are_refused(load):
    with pytest.raises(ConfigError, match=r"evaluation\.tasks\.0\.fewshot = .*: it must be sampled or first_n"):
        load(evaluation("tasks: [{task: gsm8k, fewshot: random}]"))


def test_only_lm_evals_hf_class_shares_prefixes(load):
    import lm_eval.models  # noqa: F401 - fills the registry
    from lm_eval.api.registry import get_model, model_registry

    names = {name for name in ("hf", "hf-auto", "huggingface", "hf-multimodal") if name in model_registry.keys()}  # noqa: SIM118
    for name in names:
        config = load(evaluation(f"model: {name}"))
        assert config.evaluation.shares_prefixes is (get_model(name) is get_model("hf"))
