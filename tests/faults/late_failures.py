"""Rows of late failures: inputs that an engine refuses, found before the first event instead of after hours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import yaml

from runs import events
from tests.faults.places import configure, edit_json, text, together, write
from tests.faults.table import RUN_FOLDER, Change, Fault, Place, Step, sparing
from tests.support import families


def late(name: str, before: Change, *said: str, run: bool = False) -> Fault:
    """Return a row: `check` refuses it, and so does `run` if `run` is true, which leaves nothing behind."""
    steps = [Step(("check", "<config>"), before, words=("<config>: ", *said))]
    if run:
        steps.append(Step(("run", "<config>", "--run-dir", "<run>"), words=("<config>: ", *said)))
    return Fault("late failure", name, "real", tuple(steps))


# -------------------------------------------------------------------------------------------------------------- models


def tensors_of(model: str, change: Callable[[dict[str, Any]], object]) -> Change:
    """Return a change that rewrites the tensors of a model."""

    def edit(place: Place) -> None:
        from safetensors.torch import save_file

        folder = place.family / model
        tensors = families.weights(folder)
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return edit


def to_fp8(tensors: dict[str, Any]) -> None:
    import torch

    for name, tensor in tensors.items():
        if name.endswith("proj.weight"):
            tensors[name] = tensor.to(torch.float8_e4m3fn)


def first_not_finite(tensors: dict[str, Any]) -> None:
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")


def quantized(config: dict[str, Any]) -> None:
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}


def eight_bits(config: dict[str, Any]) -> None:
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}


def without_tokenizer(*models: str) -> Change:
    def change(place: Place) -> None:
        for model in models:
            for path in (place.family / model).glob("*token*"):
                path.unlink()

    return change


def setting(model: str, **values: Any) -> Change:
    return edit_json(f"{model}/config.json", lambda config: config.update(values))


def wider_base(place: Place) -> None:
    """Let the configuration of the base say other sizes than its weights have."""
    setting("base", intermediate_size=64)(place)


TASK_ARITHMETIC = configure(merge__recipe="task-arithmetic")
MODELS = (
    late("a quantized model", edit_json("B/config.json", quantized), "foundation_models.B", "quantiz", run=True),
    late("a model quantized by bitsandbytes", edit_json("B/config.json", eight_bits), "foundation_models.B", "quantiz"),
    late("no files of a tokenizer", without_tokenizer("B"), "<family>/B", "tokenizer", run=True),
    late("no files of any tokenizer", without_tokenizer("A", "B", "base"), "<family>/A", "tokenizer"),
    late("a vocab_size above the rows", setting("B", vocab_size=330), "foundation_models.B", "330"),
    late("a vocab_size below the rows", setting("B", vocab_size=310), "foundation_models.B", "310"),
    late("a vocab_size of all models above the rows", together(*(setting(m, vocab_size=330) for m in
         ("A", "B", "base"))), "vocab_size", "330"),
    late("weights of 8 bits", tensors_of("B", to_fp8), "foundation_models.B", "F8_E4M3"),
    late("weights of 8 bits in all models", together(*(tensors_of(m, to_fp8) for m in ("A", "B", "base"))), "F8_E4M3"),
    late("weights that are not finite", tensors_of("B", first_not_finite), "<family>/B", "finite"),
    late("a base under another configuration", wider_base, "base", "intermediate_size", "64"),
    late("a base under another configuration that a recipe uses", together(setting("base", vocab_size=300),
         TASK_ARITHMETIC), "base", "300"),
    late("a base whose vocab_size is above its rows", together(setting("base", vocab_size=330), TASK_ARITHMETIC),
         "base", "330"),
    late("a model that is not read as its base is", setting("B", hidden_act="nope"), "foundation_models.B", "nope"),
    late("settings of which the weights are missing", together(*(setting(m, attention_bias=True) for m in
         ("A", "B", "base"))), "self_attn.q_proj.bias"),
    late("another intermediate size in a configuration", setting("B", intermediate_size=64), "foundation_models.B"),
    late("another number of heads in a configuration", setting("B", num_key_value_heads=4), "foundation_models.B"),
    late("a base with other weights than its configuration", tensors_of("base", lambda tensors: tensors.pop(
        "model.layers.1.mlp.up_proj.weight")), "base", "model.layers.1.mlp.up_proj.weight"),
    late("a model without one of its tensors", tensors_of("B", lambda tensors: tensors.pop(
        "model.layers.1.mlp.up_proj.weight")), "foundation_models.B", "model.layers.1.mlp.up_proj.weight"),
)  # fmt: skip

# ---------------------------------------------------------------------------------------------------------- evaluation


def task_with(**keys: Any) -> Change:
    return configure(**{f"evaluation__tasks__0__{key}": value for key, value in keys.items()})


def generating(**keys: Any) -> Change:
    """Return a change that scores gsm8k instead of winogrande."""
    task = {"task": "gsm8k", "metric": "exact_match,strict-match", "num_fewshot": 1, "limit": 2} | keys
    return configure(evaluation__tasks=[task], evaluation__datasets={"gsm8k": "./gsm8k"})


def second_row(name: str, row: str, number: int = 3) -> Change:
    """Return a change that replaces a later row of a file of items."""

    def change(place: Place) -> None:
        path = place.family / name
        lines = path.read_text().splitlines()
        lines[number - 1] = row
        path.write_text("\n".join(lines) + "\n")

    return change


ITEMS = "winogrande/validation.jsonl"
KEY = "evaluation.tasks.0"
EVALUATION = (
    late("a misspelt argument of the model", configure(evaluation__model_args={"dtypee": "float32"}),
         "evaluation.model_args", "dtypee", run=True),
    late("an argument of the model with a bad value", configure(evaluation__model_args={"dtype": "float33"}),
         "evaluation.model_args", "float33"),
    late("a misspelt setting of generation", generating(generation_kwargs={"max_gen_toks": 8, "temperatur": 0.5}),
         KEY, "temperatur", run=True),
    late("a setting of generation with a bad value", generating(generation_kwargs={
         "max_gen_toks": 8, "temperature": "hot"}), KEY, "hot"),
    late("a chat template that no model has", configure(evaluation__apply_chat_template=True),
         "evaluation.apply_chat_template", "template", run=True),
    late("a row without a valid answer behind the first", second_row(ITEMS, json.dumps(
        {"sentence": "Ann met _ there.", "option1": "Bob", "option2": "Cy", "answer": "three"})),
        KEY, "winogrande", run=True),
    late("a row without the blank behind the first", second_row(ITEMS, json.dumps(
        {"sentence": "Ann met Bob there.", "option1": "Bob", "option2": "Cy", "answer": "1"})), KEY, "winogrande"),
    late("a row of numbers behind the first", second_row(ITEMS, json.dumps(
        {"sentence": 5, "option1": "Bob", "option2": "Cy", "answer": "1"})), KEY, "winogrande"),
    late("a bad few-shot row", second_row("winogrande/train.jsonl", json.dumps(
        {"sentence": "Ann met _ there.", "option1": "Bob", "option2": "Cy", "answer": "three"}), 2), KEY, "winogrande"),
    late("a limit of thirty digits", configure(evaluation__limit=10**30), "evaluation.limit", "1" + "0" * 30, run=True),
    late("a limit of a task of thirty digits", task_with(limit=10**30), f"{KEY}.limit", "1" + "0" * 30),
    late("a number of examples of thirty digits", task_with(num_fewshot=10**30), f"{KEY}.num_fewshot"),
    late("a batch of thirty digits", configure(evaluation__batch_size=10**30), "evaluation.batch_size"),
    late("more examples than there are rows", task_with(num_fewshot=50), KEY, "winogrande"),
    late("a tokenizer that does not exist", configure(evaluation__model_args__tokenizer="<family>/none"),
         "evaluation.model_args.tokenizer", "<family>/none"),
    late("an adapter that does not exist", configure(evaluation__model_args__peft="<family>/none"),
         "evaluation.model_args.peft", "<family>/none"),
)  # fmt: skip

# -------------------------------------------------------------------------------------------------------------- recipes

SLICES = """merge_method: slerp
base_model: {{ parent_1 }}
slices:
  - sources:
      - {model: {{ parent_1 }}, layer_range: [0, 2]}
      - {model: {{ parent_2 }}, layer_range: [0, 2]}
parameters: {t: 0.5}
dtype: float32
"""
PLAIN = """merge_method: slerp
base_model: {{ parent_1 }}
models: [{model: {{ parent_1 }}}, {model: {{ parent_2 }}}]
parameters: {t: 0.5}
dtype: {{ dtype }}
"""


def recipe(content: str) -> Change:
    return together(text("mine.yaml", content), configure(merge__recipe="./mine.yaml"))


def four_layers(place: Place) -> None:
    for number, name in enumerate(("base", "A", "B")):
        shutil.rmtree(place.family / name)
        near = None if name == "base" else place.family / "base"
        families.save(place.family / name, seed=number, near=near, layers=4)


def plain(old: str, new: str) -> Change:
    return recipe(PLAIN.replace(old, new))


MINE = "merge.recipe = <family>/mine.yaml: "
LINEAR = """merge_method: linear
models: [{model: {{ parent_1 }}, parameters: {weight: 0}}, {model: {{ parent_2 }}, parameters: {weight: 0}}]
parameters: {normalize: true}
dtype: {{ dtype }}
"""
RECIPES = (
    late("a recipe of two of four layers", together(four_layers, recipe(SLICES)), MINE, "layer", run=True),
    late("a recipe that writes int8", plain("{{ dtype }}", "int8"), MINE, "dtype", "int8", run=True),
    late("a recipe that writes an unknown type", plain("{{ dtype }}", "float33"), MINE, "dtype", "float33"),
    late("a recipe whose t is not a number", plain("0.5", ".nan"), MINE, "t", "nan", run=True),
    late("a recipe whose t is infinite", plain("0.5", ".inf"), MINE, "t", "inf"),
    late("a recipe whose t overflows", plain("0.5", "1.0e300"), MINE, "1.0e300"),
    late("a recipe whose t has 400 digits", plain("0.5", "9" * 400), MINE, "t"),
    late("a recipe whose gradient is not a number", plain("0.5", "[0.5, .nan]"), MINE, "t", "nan"),
    late("a recipe whose weights are zero", recipe(LINEAR), MINE, "weight"),
)

# -------------------------------------------------------------------------------------------- what a refusal leaves


def nothing_left(place: Place) -> None:
    assert not place.run.exists()
    assert not list((place.root / "temporary").iterdir())


def corrected(name: str, wrong: Change, right: Change, *said: str) -> Fault:
    """Return a row: a refused start leaves nothing, so that the corrected configuration starts in the same folder."""

    def started(place: Place) -> None:
        assert len(events(place.run, "run_started")) == 1
        assert not events(place.run, "model_failed")

    command = ("run", "<config>", "--run-dir", "<run>")
    refused = Step(command, wrong, words=("<config>: ", *said), after=nothing_left)
    starts = Step(command, right, code=0, changes=RUN_FOLDER, after=started)
    return Fault("late failure", name, "real", (refused, starts))


def another_name(place: Place) -> None:
    raw = yaml.safe_load(place.config.read_text())
    raw["evaluation"]["model_args"] = {"dtype": "float32"}
    raw["seed"] = 5
    write(place.config, yaml.safe_dump(raw, sort_keys=False))


def no_rehearsal(place: Place) -> None:
    assert not (place.root / "runs").exists()


LEFT = (
    corrected(
        "a corrected argument of the model does not start",
        configure(evaluation__model_args={"dtypee": "float32"}),
        another_name,
        "dtypee",
    ),
    corrected(
        "a corrected recipe does not start",
        recipe(PLAIN.replace("{{ dtype }}", "int8")),
        text("mine.yaml", PLAIN),
        "int8",
    ),
    Fault(
        "late failure",
        "a rehearsal that cannot be turned off",
        "real",
        (
            Step(("check", "<config>"), configure(evaluation__model_args={"dtypee": "float32"}), words=("dtypee",)),
            Step(("check", "<config>", "--no-rehearsal"), code=0, words=("evolve run <config>",), after=no_rehearsal),
        ),
    ),
    Fault(
        "late failure",
        "a start that leaves files of the rehearsal",
        "real",
        (Step(("check", "<config>"), code=0, words=("Ready: ",), after=nothing_left),),
    ),
)

ROWS = (
    *sparing(
        MODELS,
        "a quantized model",
        "no files of a tokenizer",
        "a vocab_size above the rows",
        "weights of 8 bits",
        "weights that are not finite",
        "a base under another configuration",
        "a base under another configuration that a recipe uses",
        "settings of which the weights are missing",
    ),
    *sparing(
        EVALUATION,
        "a misspelt argument of the model",
        "a misspelt setting of generation",
        "a chat template that no model has",
        "a row without a valid answer behind the first",
        "a bad few-shot row",
        "a limit of thirty digits",
        "a number of examples of thirty digits",
        "a tokenizer that does not exist",
    ),
    *sparing(
        RECIPES,
        "a recipe of two of four layers",
        "a recipe that writes int8",
        "a recipe whose t is not a number",
        "a recipe whose weights are zero",
    ),
    *LEFT,
)
