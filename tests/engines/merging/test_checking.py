"""Mistakes in recipes: each is refused with the key at fault and the nearest known one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from evolve.engines.merging import check_recipe, load_template, render, template_names
from evolve.errors import RecipeError

GOOD = """
merge_method: ties
base_model: /m/base
models:
  - model: /m/one
    parameters: {weight: 0.5, density: [0.1, 0.9]}
  - model: {model: {path: /m/two, revision: main}}
    parameters: {weight: [{filter: mlp, value: 1}, {value: 0.5}]}
parameters: {normalize: true}
tokenizer: {source: union, tokens: {"<x>": {source: {kind: model_token, model: /m/one, token: y}, force: true}}}
dtype: bfloat16
"""


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


@pytest.mark.parametrize("tokenizer", [None, "union", "base", "first"])
@pytest.mark.parametrize("name", template_names())
def test_every_template_is_accepted(name, tokenizer):
    odd = Path("/m/one +two@v1 'q' \"é\" #5")
    parents = (odd, Path("/m/two"))
    text = render(
        load_template(name), parents=parents, base=Path("/m/base"), num_layers=4, dtype="float32", tokenizer=tokenizer
    )
    check_recipe(text)


def test_mergekit_reads_odd_paths_literally():
    from mergekit.config import MergeConfiguration

    odd = Path("/m/one +two@v1 'q' \"é\" #5")
    text = render(
        load_template("slerp"),
        parents=(odd, Path("/m/two")),
        base=Path("/b"),
        num_layers=4,
        dtype="float32",
        tokenizer="first",
    )
    read = MergeConfiguration.model_validate(yaml.safe_load(text))
    for reference in (read.base_model, read.models[0].model, read.tokenizer.source):
        assert (reference.model.path, reference.model.revision, reference.lora) == (str(odd), None, None)


def test_a_full_recipe_is_accepted():
    check_recipe(GOOD)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("base_model:", "base_modle:", "unknown key 'base_modle'; did you mean 'base_model'"),
        ("parameters: {normalize", "paramters: {normalize", "unknown key 'paramters'; did you mean 'parameters'"),
        ("parameters: {weight: 0.5", "params: {weight: 0.5", r"'params' in models\[0\]; did you mean 'parameters'"),
        ("density", "densty", r"unknown parameter of ties 'densty' in models\[0\].parameters; did you mean 'density'"),
        ("normalize", "t", "unknown parameter of ties 't'"),
        ("filter: mlp", "fliter: mlp", "unknown key 'fliter' .*did you mean 'filter'"),
        ("revision", "revison", "unknown key 'revison' .*did you mean 'revision'"),
        ("source: union", "sorce: union", "unknown key 'sorce' in tokenizer; did you mean 'source'"),
        ("force: true", "forced: true", "unknown key 'forced' in tokenizer.tokens.<x>; did you mean 'force'"),
        ("kind: model_token", "knd: model_token", "unknown key 'knd'"),
        ("merge_method: ties", "merge_method: tise", "unknown merge_method 'tise'; did you mean 'ties'"),
        ("weight: 0.5", "weight: much", r"models\[0\].parameters.weight in the recipe cannot be 'much'"),
        ("normalize: true", "normalize: [1, perhaps]", "cannot be 'perhaps'"),
        ("dtype: bfloat16", "", "sets no dtype"),
        ("/m/one\n", "/m/one+/m/lora\n", "LoRA, which is not supported"),
        ("base_model: /m/base\n", "", "do not fit the method ties: Merge method requires a base"),
        ("base_model: /m/base\n", "base_model: [1]\n", "mergekit does not accept the recipe"),
        ("models:", "slices: []\nmodels: !x", "not valid YAML"),
        ("merge_method: ties", "merge_method: ties\nmerge_method: ties", "the key 'merge_method' is also in line"),
        ("weight: 0.5", "weight: 5.0e-324", "weight in the recipe cannot be 5e-324: the size of a weight must be from"),
        ("weight: 0.5", "weight: [1, 1.0e+7]", r"weight\[1\] in the recipe cannot be 10000000.0: the size of a weight"),
        ("weight: 0.5", "weight: -1.0e-7", "weight in the recipe cannot be -1e-07"),
        ("weight: 0.5", "weight: {value: 1.0e-7}", "weight in the recipe cannot be 1e-07"),
        ("weight: 0.5", "weight: [{filter: x, value: [0, 1.0e-7]}]", r"weight\[0\]\[1\] in the recipe cannot be 1e-07"),
        ("weight: 0.5", "weight: 'nan'", "weight in the recipe cannot be 'nan': it must be between"),
        ("weight: 0.5", "weight: 1e400", "weight in the recipe cannot be '1e400': it must be between"),
        ("weight: 0.5", "weight: .nan", r"models\[0\].parameters.weight = nan: it must be finite; give a number"),
        ("[0.1, 0.9]", "1.0e+30", "density in the recipe cannot be 1e.30: it must be between"),
        ("source: union", "source: union, pad_to_multiple_of: 0", "pad_to_multiple_of in the recipe cannot be 0"),
        ("source: union", "source: union, pad_to_multiple_of: 99999999", "cannot be 99999999: give a number from 1"),
    ],
)
def test_mistakes_are_named(old, new, message):
    with pytest.raises(RecipeError, match=message):
        check_recipe(changed(old, new))


@pytest.mark.parametrize("text", ["", "[]", "hello", "a: ["])
def test_a_recipe_that_is_not_a_mapping_is_refused(text):
    with pytest.raises(RecipeError, match=r"not a YAML mapping|not valid YAML"):
        check_recipe(text)


@pytest.mark.parametrize("weights", ["0, 0", "[0, 0.0], 0"])
def test_weights_that_are_all_zero_are_refused(weights):
    one, two = weights.rsplit(", ", 1)
    text = (
        f"{{merge_method: linear, models: [{{model: /a, parameters: {{weight: {one}}}}}, "
        f"{{model: /b, parameters: {{weight: {two}}}}}], dtype: float32}}"
    )
    with pytest.raises(RecipeError, match="every weight in the recipe is 0"):
        check_recipe(text)
    check_recipe(text.replace("weight: 0}", "weight: -1}"))


@pytest.mark.parametrize("layers", ["[0, 1000000000000]", "[-1, 2]", "[2, 2]"])
def test_a_range_without_layers_is_refused(layers):
    text = f"""
merge_method: slerp
base_model: /a
slices:
  - sources: [{{model: /a, layer_range: {layers}}}, {{model: /b, layer_range: {layers}}}]
parameters: {{t: 0.5}}
dtype: float32
"""
    with pytest.raises(RecipeError, match="layer_range"):
        check_recipe(text)


def test_a_required_parameter_must_be_set():
    text = "{merge_method: slerp, base_model: /a, models: [{model: /a}, {model: /b}], dtype: float32}"
    with pytest.raises(RecipeError, match="does not set 't', which the method slerp requires"):
        check_recipe(text)


def test_slerp_of_three_is_refused():
    text = (
        "{merge_method: slerp, base_model: /a, models: [{model: /b}, {model: /c}], parameters: {t: 1}, dtype: float32}"
    )
    with pytest.raises(RecipeError, match="requires exactly 2 inputs"):
        check_recipe(text)


def test_slices_are_checked_too():
    text = """
merge_method: slerp
base_model: /a
slices:
  - sources: [{model: /a, layer_range: [0, 4]}, {model: /b, layer_rnge: [0, 4]}]
parameters: {t: 0.5}
dtype: float32
"""
    with pytest.raises(RecipeError, match=r"'layer_rnge' in slices\[0\].sources\[1\]; did you mean 'layer_range'"):
        check_recipe(text)
    check_recipe(text.replace("rnge", "range"))
