"""Rehearsals find errors of a merge before it starts, and count the tensors that filters match."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import yaml

from evolve.engines.merging import load_template, merge, plan_merges, render, template_names
from evolve.engines.protocols import FilterMatch, MergeJob, PlanMergesJob
from evolve.errors import MergeError, RecipeError
from tests.engines.merging import _models as tiny
from tests.support import families

ATTENTION, MLP = "attn or attention.", "mlp or .fc or feed_forward."


def planned(*recipes, plan=True):
    """Rehearse some recipes of one template; return its matches."""
    return plan_merges(PlanMergesJob({"own": recipes}, plan), tiny.silent)["own"]


def edit(folder, **settings):
    """Change entries of a model's config.json; None removes one."""
    path = folder / "config.json"
    content = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def pair(folder, family, **settings):
    """Write two models of a family, with embeddings tied as the family has them."""
    one = families.save(folder / "one", family, tied=None, **settings)
    return one, families.save(folder / "two", family, tied=None, near=one, seed=1, **settings)


def gradient(parents, tokenizer=None):
    template = load_template("slerp-gradient")
    return render(template, parents=parents, base=parents[0], num_layers=None, dtype="float32", tokenizer=tokenizer)


@pytest.mark.parametrize("recipe", template_names())
def test_good_recipes_pass_and_nothing_is_written_or_kept(family, job, recipe):
    from mergekit.io.tasks import LoaderCache

    task = job(recipe)
    planned(task.recipe)
    assert list(task.output.iterdir()) == []
    assert LoaderCache().loaders == {}


def test_mergekit_is_restored_afterwards(job):
    import mergekit.parameter_resolver
    import mergekit.tokenizer.build
    from mergekit.merge_methods.base import MergeMethod

    def state():
        return (
            *(mergekit.parameter_resolver.resolve_parameter, mergekit.tokenizer.build.tqdm),
            *(MergeMethod._execute_resolved, logging.root.manager.disable, list(logging.root.handlers)),
        )

    before = state()
    planned(job().recipe)
    with pytest.raises(RecipeError):
        planned(job(name="other").recipe.replace("    - value: 0.5\n", ""))
    assert state() == before


def test_inferred_architectures_print_nothing_and_are_not_kept(tmp_path, capfd):
    from mergekit.architecture.auto import infer_architecture_info

    parents = pair(tmp_path, "opt")
    capfd.readouterr()
    planned(gradient(parents))
    assert capfd.readouterr() == ("", "")
    assert infer_architecture_info.cache_info().currsize == 0


def test_a_rehearsal_without_models_checks_the_recipe_only(job):
    text = job().recipe.replace("/a", "/missing")
    assert planned(text, plan=False) == ()
    with pytest.raises(RecipeError, match="unknown key 'paramters'"):
        planned(text.replace("parameters:", "paramters:"), plan=False)


def test_progress_counts_recipes(job):
    seen = []
    text = job().recipe
    plan_merges(PlanMergesJob({"one": (text, text), "two": (text,)}), lambda *news: seen.append(news))
    assert seen == [("checking recipe one", 0, 3), ("checking recipe one", 1, 3), ("checking recipe two", 2, 3)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("parameters:", "paramters:", "merge.recipe = own: the recipe has an unknown key 'paramters'"),
        ("    - value: 0.5\n", "", "mergekit cannot merge a and b by this recipe: Missing required parameter t for"),
    ],
)
def test_mistakes_in_a_recipe(job, old, new, message):
    text = job().recipe
    with pytest.raises(RecipeError, match=message):
        planned(text, text.replace(old, new))  # not only the first recipe of a template is planned


def test_missing_folders(family, job, tmp_path):
    with pytest.raises(RecipeError, match="none, which is not the absolute path of a folder"):
        planned(job(parents=(family.a, tmp_path / "none")).recipe)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 3}, "the same number of layers"),
        ({"intermediate_size": 40}, r"Tensor size mismatch for model\.layers\.0\.mlp"),
        ({"extra": ["<x>"]}, r"Tensor size mismatch for model\.embed_tokens\.weight"),
        ({"family": "gpt_neox"}, "different architectures"),
    ],
)
def test_models_with_different_layouts(family, job, tmp_path, change, message):
    other = tiny.save(tmp_path / "other", **({"layers": 4} | change))
    with pytest.raises(RecipeError, match=message):
        planned(job(parents=(family.a, other)).recipe)


def test_a_child_with_more_layers_than_its_parents(family, job):
    """transformers would load it, but no kinship with its parents would be defined."""

    def stacked(text):
        one, two = (line.split("model: ", 1)[1] for line in text.splitlines() if line.startswith("  - model"))
        return f"""
merge_method: passthrough
slices:
  - sources: [{{model: {one}, layer_range: [0, 4]}}]
  - sources: [{{model: {two}, layer_range: [2, 4]}}]
dtype: float32
"""

    with pytest.raises(RecipeError, match=r"num_hidden_layers 6, but .*/a has 4: change the slices"):
        planned(job(change=stacked).recipe)


# ----------------------------------------------------------------------------------- what mergekit cannot read


def test_a_missing_tensor_is_named_with_its_model(tmp_path):
    parents = pair(tmp_path, "gpt_neox")
    message = (
        r"/one has no tensor gpt_neox\.layers\.0\.attention\.bias, which mergekit's definition of GPTNeoXForCausalLM"
    )
    with pytest.raises(RecipeError, match=message):
        planned(gradient(parents))


@pytest.mark.parametrize("setting", ["attention_bias", "mlp_bias"])
def test_tensors_that_mergekit_would_leave_out(tmp_path, setting):
    """mergekit's definition of Llama has no biases: the child would lack them."""
    parents = pair(tmp_path, "llama", **{setting: True})
    text = gradient(parents)
    with pytest.raises(RecipeError, match=r"LlamaForCausalLM would not load the child, .*: missing keys .*bias"):
        planned(text)
    (tmp_path / "out").mkdir()
    with pytest.raises(MergeError, match="lacks tensors"):  # after hours, if it were not found before
        merge(MergeJob(text, parents, tmp_path / "out"), tiny.silent, "cpu")


def test_quantized_models(family, job, tmp_path):
    model = shutil.copytree(family.b, tmp_path / "quantized")
    edit(model, quantization_config={"quant_method": "fp8"})
    with pytest.raises(RecipeError, match="quantized is quantized: merge the unquantized model"):
        planned(job(parents=(family.a, model)).recipe)


def test_a_model_without_an_architecture(family, job, tmp_path):
    model = shutil.copytree(family.b, tmp_path / "nameless")
    edit(model, architectures=None)
    with pytest.raises(RecipeError, match=r"nameless/config\.json names no architecture"):
        planned(job(parents=(family.a, model)).recipe)


# ------------------------------------------------------------------------------------------------------ tokens


def add_token(model, token, number):
    """Give a model's tokenizer a token, without a row in the embeddings."""
    path = model / "tokenizer.json"
    content = json.loads(path.read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["added_tokens"].append({"id": number, "content": token, "special": True, **flags})
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("source", ["union", "first"])
def test_a_token_beyond_the_rows_of_the_embeddings(mixed, tmp_path, source):
    """The merge fails with a bare KeyError."""
    one, two = mixed.c, shutil.copytree(mixed.b, tmp_path / "short")
    add_token(two, "<|end_of_turn|>", tiny.WORDS)  # which the other model has a row for
    text = gradient((one, two), source)
    message = (
        rf"short: its tokenizer gives the token '<\|end_of_turn\|>' the id {tiny.WORDS}, .* only {tiny.WORDS} rows"
    )
    with pytest.raises(RecipeError, match=message):
        planned(text)
    (tmp_path / "out").mkdir()
    with pytest.raises(MergeError, match=rf"KeyError {tiny.WORDS}$"):
        merge(MergeJob(text, (one, two), tmp_path / "out"), tiny.silent, "cpu")


def test_a_config_with_more_rows_than_the_embeddings(mixed, tmp_path):
    """The merge fails with an IndexError."""
    model = shutil.copytree(mixed.c, tmp_path / "short")
    weights = tiny.weights(model)
    from safetensors.torch import save_file

    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][: tiny.WORDS].clone()
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(RecipeError, match=rf"short: .* the id {tiny.WORDS}, .* have only {tiny.WORDS} rows"):
        planned(gradient((mixed.a, model), "union"))


@pytest.mark.parametrize("source", ["union", "base", "first"])
def test_different_vocabularies_pass_where_rows_are_aligned(mixed, source):
    parents = (mixed.a, mixed.c)
    planned(gradient(parents, source))


def test_tokens_that_a_recipe_chooses_are_checked(mixed):
    def text(token):
        content = yaml.safe_load(gradient((mixed.a, mixed.c)))
        source = {"kind": "model_token", "model": content["models"][1]["model"], "token": token}
        return yaml.safe_dump(content | {"tokenizer": {"source": "union", "tokens": {"[PAD]": {"source": source}}}})

    planned(text("<|end_of_turn|>"))
    with pytest.raises(RecipeError, match="Token '<missing>' not found in model"):
        planned(text("<missing>"))


# ------------------------------------------------------------------------------------------------------ filters


@pytest.mark.parametrize(
    ("name", "attention", "mlp"),
    [
        ("mistral", 4, 3),
        ("mixtral", 4, 3),
        ("qwen2_moe", 7, 7),
        ("qwen3_moe", 6, 3),
        ("gpt_oss", 9, 6),
        ("gpt2", 4, 4),
        ("bloom", 4, 4),
        ("opt", 10, 4),
        ("phi", 8, 4),
        ("lfm2", 3, 3),  # one of the two layers has attention, with six tensors
        ("mamba", 0, 0),
        ("mamba2", 0, 0),
    ],
)
def test_tensors_that_the_default_recipe_reaches(tmp_path, name, attention, mlp):
    """Counted in each of two layers."""
    parents = pair(tmp_path, name)
    assert planned(gradient(parents)) == (
        FilterMatch("t", ATTENTION, 2 * attention),
        FilterMatch("t", MLP, 2 * mlp),
    )


def test_gpt_neox_is_reached_too(tmp_path):
    parents = tuple(families.store_buffers(model) for model in pair(tmp_path, "gpt_neox"))
    attention, mlp = planned(gradient(parents))
    assert (attention.tensors, mlp.tensors) == (2 * 7, 2 * 4)


def test_the_first_filter_that_matches_counts(job):
    def filters(text):
        start, end = text.index("    - filter: attn"), text.index("    - value: 0.5")
        own = "".join(f"    - filter: {name}\n      value: {value}\n" for name, value in values)
        return text[:start] + own + text[end:]

    values = [("q_proj", 0.1), ("self_attn", 0.2), ("k_proj", 0.3), ("mlpp", 0.4)]
    found = {match.filter: match.tensors for match in planned(job(change=filters).recipe)}
    assert found == {"q_proj": 4, "self_attn": 12, "k_proj": 0, "mlpp": 0}


def test_filters_of_one_model_are_counted(job):
    def own(text):
        return text.replace("{weight: 0.5, density: 0.5}", "{weight: [{filter: mlp, value: 1}, {value: 0.5}]}", 1)

    assert planned(job("ties", change=own).recipe) == (FilterMatch("weight", "mlp", 12),)


def test_a_recipe_without_filters_has_no_matches(job):
    assert planned(job("slerp").recipe) == ()
