"""Whatever is wrong with a configuration is said in one line: file, key, value and the mend."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evolve.config import AdapterSource, Config, dump_config, load_config, parse_config
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
    """The lines of the error that a text gives, without the path of the file that each begins with."""

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


def test_a_minimal_file_is_enough(load):
    config = load(MODELS)

    assert config.name == "run"
    assert [task.task for task in config.evaluation.tasks] == ["winogrande", "gsm8k", "truthfulqa_mc2"]
    assert (config.strategy.name, config.strategy.top_k, config.strategy.stop_at_kinship) == ("kinship", 3, 0.9)


@pytest.mark.parametrize(("stem", "name"), [("mistral-7b", "mistral-7b"), ("my run+2", "my-run-2"), ("_", "run")])
def test_a_run_without_a_name_is_called_after_its_file(tmp_path, stem, name):
    path = tmp_path / f"{stem}.yaml"
    path.write_text(MODELS)

    assert load_config(path).name == name


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "no.yaml")

    assert str(caught.value) == f"{tmp_path / 'no.yaml'}: there is no such file; give the path of a configuration"


def test_a_folder(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path)

    assert str(caught.value) == f"{tmp_path}: is a folder; give the path of a configuration file"


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"\xff\xfe\x00\x01")

    with pytest.raises(ConfigError) as caught:
        load_config(path)

    assert str(caught.value) == f"{path}: is not a UTF-8 text; give the path of a YAML file"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "holds nothing and not a mapping; it needs at least base_model and foundation_models"),
        ("# only a comment\n", "holds nothing and not a mapping; it needs at least base_model and foundation_models"),
        ("- a\n- b\n", "holds a list and not a mapping; it needs at least base_model and foundation_models"),
        ("hello", "holds a text and not a mapping; it needs at least base_model and foundation_models"),
        ("a: [1, 2\nb: 3\n", "line 2: not valid YAML: expected ',' or ']', but got ':'; mend the syntax there"),
        ("a: b: c\n", "line 1: not valid YAML: mapping values are not allowed here; mend the syntax there"),
        ("a: 1\n---\nb: 2\n", "line 2: not valid YAML: found another document; mend the syntax there"),
        ("a: \x01\n", "not valid YAML: special characters are not allowed; mend the syntax there"),
        (
            "a: 2024-13-45\n",
            "not valid YAML: month must be in 1..12; put a text that looks like a date in quotes",
        ),
        ("[" * 5000, "not valid YAML: it is nested too deep; mend the brackets"),
        ("name: x\nseed: 1\nname: y\n", "line 3: key 'name' stands already in line 1; keep one of the two"),
        (
            "strategy:\n  top_k: 2\n  metric: pcc\n  top_k: 3\n",
            "line 4: key 'top_k' stands already in line 2; keep one of the two",
        ),
        (
            "evaluation:\n  tasks:\n    - {task: a,\n       task: b}\n",
            "line 4: key 'task' stands already in line 3; keep one of the two",
        ),
        ("seed: 1\non: 2\n", "line 2: the key on is not a text; put it in quotes"),
        (foundations("7: org/a", "B: org/b"), "line 3: the key 7 is not a text; put it in quotes"),
    ],
)
def test_a_text_that_is_no_mapping_of_keys(problems, text, problem):
    assert problems(text) == [problem]


def test_what_a_mapping_merges_in_it_may_override(load):
    config = load(
        "base_model: org/base\nfoundation_models: {A: org/a, B: org/b}\n"
        "evaluation:\n  tasks:\n"
        "    - &first {task: a, num_fewshot: 5, limit: 10}\n"
        "    - {<<: *first, task: b, num_fewshot: 0}\n"
    )

    found = [(task.task, task.num_fewshot, task.limit) for task in config.evaluation.tasks]
    assert found == [("a", 5, 10), ("b", 0, 10)]


# ----------------------------------------------------------------------------------------------------------- the keys

NAME_RULE = "a name has letters, digits, '-', '_' and single '.', and begins with a letter or a digit; rename it"
CHILD_RULE = "names of the form model-<generation>-<n> are kept for the children; rename it"
TWO_NAMES = "it must be a mapping of at least two names to folders or hub ids"
SOURCE = "it must be a folder or a hub id, or a mapping of model and adapter"


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
            "foundation_models.A.adapter: is missing; give a folder or a hub id of a LoRA adapter",
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
        (MODELS + "strategy:\n", "strategy = null: it must be a mapping; left out, it has its defaults"),
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
            'strategy.top_k = "many": it must be a whole number of at least 2: how many of the best models are paired',
        ),
        (
            strategy("top_k: 1"),
            "strategy.top_k = 1: it must be a whole number of at least 2: how many of the best models are paired",
        ),
        (
            strategy("top_k: true"),
            "strategy.top_k = true: it must be a whole number of at least 2: how many of the best models are paired",
        ),
        (
            strategy("top_k: 2.5"),
            "strategy.top_k = 2.5: it must be a whole number of at least 2: how many of the best models are paired",
        ),
        (
            strategy("stop_at_kinship: 7"),
            "strategy.stop_at_kinship = 7.0: with metric pcc it must be a number from -1 to 1, or null",
        ),
        (
            strategy("metric: ed"),
            (
                "strategy.stop_at_kinship = 0.9: with metric ed it is a distance, so this default has no "
                "meaning; set it to null, or to a distance below which the run stops"
            ),
        ),
        (
            strategy("metric: ed, stop_at_kinship: 0"),
            "strategy.stop_at_kinship = 0.0: with metric ed it is a distance; it must be a number above 0, or null",
        ),
        (
            MODELS + "merge: {recipe: []}\n",
            "merge.recipe = []: it is an empty list; name at least one template, for example slerp-gradient",
        ),
        (MODELS + "merge: {recipe: [a, a]}\n", 'merge.recipe = ["a", "a"]: it names a template twice; name each once'),
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
            "evaluation.tasks.0.weight = 0: it must be a number above 0: the task's weight in the average",
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
            'evaluation.model_args = {"x": NaN}: its numbers must be finite; give a number, or null',
        ),
        (
            evaluation("model_args: {x: [2024-01-31]}"),
            'evaluation.model_args = {"x": ["2024-01-31"]}: 2024-01-31 was read as a date; put it in quotes',
        ),
        (
            evaluation("limit: true"),
            "evaluation.limit = true: it must be a whole number of documents of each task, at least 1, or null for all",
        ),
        (
            evaluation("apply_chat_template: maybe"),
            'evaluation.apply_chat_template = "maybe": it must be true or false',
        ),
    ],
)
def test_a_wrong_key_or_value_is_one_line_with_its_mend(problems, text, problem):
    assert problems(text) == [problem]


def test_each_problem_has_its_own_line(problems):
    text = foundations("a+b: {model: org/a}", "B: org/b") + "sead: 1\nstrategy: {top_k: 1, metric: no}\n"

    found = [line.partition(" ")[0].rstrip(":") for line in problems(text)]

    assert sorted(found) == [
        "foundation_models.a+b",
        "foundation_models.a+b.adapter",
        "sead",
        "strategy.metric",
        "strategy.top_k",
    ]


def test_missing_keys_are_named_with_what_they_must_be(problems):
    assert problems("seed: 1\n") == [
        "base_model: is missing; give a folder or a hub id of the model that all others descend from",
        "foundation_models: is missing; give a mapping of at least two names to folders or hub ids",
    ]


def test_a_long_value_is_cut(problems):
    (line,) = problems(MODELS + f"device: {'x' * 500}\n")

    assert "xxx...: it must be auto" in line
    assert len(line) < 320


def test_a_line_break_in_a_key_does_not_break_the_line(problems):
    (line,) = problems(foundations('"a\\nb": org/a', "B: org/b"))

    assert line == f"foundation_models.a\\nb: {NAME_RULE}"


@pytest.mark.parametrize("name", ["AdapterSource", "str", "model-1", "a.b", "7B", "model-1-2-x"])
def test_unusual_names_that_are_fine(load, name):
    assert set(load(foundations(f"'{name}': org/a", "B: org/b")).foundation_models) == {name, "B"}


# ---------------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("other", ["./models/a", "models/x/../a", "models/a/", "{}/models/a", "models/link"])
def test_one_folder_spelled_in_two_ways_is_the_same_model(problems, tmp_path, other):
    (tmp_path / "models" / "a").mkdir(parents=True)
    (tmp_path / "models" / "link").symlink_to("a")

    (line,) = problems(foundations("A: models/a", f"B: {other.format(tmp_path)}"))

    assert (
        line
        == f'foundation_models.B = "{tmp_path / "models" / "a"}": foundation_models.A is the same model; list it once'
    )


def test_the_base_is_found_among_the_foundations_however_it_is_spelled(problems, tmp_path):
    (tmp_path / "base").mkdir()

    (line,) = problems("base_model: ./base\nfoundation_models: {A: org/a, B: base}\n")

    assert line.startswith(f'foundation_models.B = "{tmp_path / "base"}": it is the base model')


def test_relative_paths_are_relative_to_the_folder_of_the_file(tmp_path, monkeypatch):
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


def test_a_home_folder_is_spelled_out(load, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))

    assert load("base_model: ~/base\nfoundation_models: {A: org/a, B: org/b}\n").base_model == str(tmp_path / "base")


@pytest.mark.parametrize("source", ["gpt2", "org/model", "org/model@main", "org/model@0123abc"])
def test_hub_ids_stay_as_they_are(load, source):
    config = load(foundations(f"A: {source}", "B: org/b"))

    assert config.foundation_models["A"] == source


@pytest.mark.parametrize("source", ["~no-such-user-here/a", '"/a\\0b"', "x" * 5000])
def test_a_path_that_cannot_be_is_left_to_whoever_looks_for_the_model(load, source):
    config = load(foundations(f"A: {source}", "B: org/b"))

    assert config.foundation_models["A"] == source.strip('"').replace("\\0", "\0")


# ------------------------------------------------------------------------------------------------------------ overrides


def test_overrides_replace_what_the_file_says_and_their_values_are_yaml(load):
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


def test_an_override_finds_a_name_with_dots(load):
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


def test_an_override_changes_only_its_own_key_even_where_yaml_shares_the_value(load):
    text = MODELS + "evaluation:\n  tasks:\n    - {task: a, generation_kwargs: &shared {x: 1}}\n  model_args: *shared\n"

    config = load(text, "evaluation.model_args.x=2")

    assert config.evaluation.model_args == {"x": 2}
    assert config.evaluation.tasks[0].generation_kwargs == {"x": 1}


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
def test_a_wrong_override_is_one_line_too(problems, override, problem):
    assert problems(MODELS, override) == [problem]


# ----------------------------------------------------------------------------------------------------------- round trip


def test_a_dumped_configuration_loads_as_the_same(load, tmp_path):
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


def test_a_dump_spells_every_default_out(load):
    text = dump_config(load(MODELS))

    for key in ("stop_at_kinship: 0.9", "pairs_per_generation: null", "recipe: slerp-gradient", "device: auto"):
        assert key in text


def test_parsing_leaves_the_raw_mapping_as_it_was(tmp_path):
    raw = {
        "base_model": "./base",
        "foundation_models": {"A": "./a", "B": "./b"},
        "merge": {"recipe": "./r.yaml"},
        "evaluation": {"task_dirs": ["mine"], "tasks": [{"task": "t"}], "datasets": {"t": "data"}},
    }
    before = repr(raw)

    parse_config(raw, where="here", folder=tmp_path)

    assert repr(raw) == before


def test_messages_name_the_origin_that_is_given(tmp_path):
    with pytest.raises(ConfigError) as caught:
        parse_config({"base_model": "b", "foundation_models": {"A": "a", "B": 5}}, where="here", folder=tmp_path)

    assert str(caught.value) == f"here: foundation_models.B = 5: {SOURCE}"


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)

    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "run.yaml")

    assert str(caught.value) == f"{tmp_path / 'run.yaml'}: cannot be read (Permission denied); give a readable file"


def test_no_foundation_takes_the_name_of_the_base(problems):
    (line,) = problems(foundations("base_model: org/a", "B: org/b"))

    assert line == "foundation_models.base_model: base_model is the name of the base; rename it"
