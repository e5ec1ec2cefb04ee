"""Templates: loading, filling in, and the identity of a child. Nothing here imports torch or mergekit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evolve.engines.merging import Template, identity, load_template, render, template_names
from evolve.errors import RecipeError

NAMES = ["dare-ties", "karcher", "linear", "nuslerp", "slerp", "slerp-gradient", "task-arithmetic", "ties"]
ONE, TWO, BASE = Path("/m/one"), Path("/m/two"), Path("/m/base")
MINIMAL = "merge_method: slerp\nbase_model: {{ parent_1 }}\nmodels: [{model: {{ parent_2 }}}]\ndtype: {{ dtype }}\n"


def filled(template, *, parents=(ONE, TWO), base=BASE, num_layers=4, dtype="bfloat16", tokenizer=None):
    return render(template, parents=parents, base=base, num_layers=num_layers, dtype=dtype, tokenizer=tokenizer)


def written(folder: Path, text: str) -> Template:
    path = folder / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return load_template(str(path))


def identity_of(template, **changes):
    known = {"parent_identities": ("p1", "p2"), "base_identity": "b", "dtype": "bfloat16", "tokenizer": None}
    return identity(template, **(known | {"mergekit_version": "0.1.5"} | changes))


def test_the_templates_that_come_with_evolve():
    assert template_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_template_starts_with_a_description_and_its_source(name):
    first = load_template(name).text.splitlines()
    assert first[0].startswith("# ")
    assert any(line.startswith("# Source: ") for line in first)


@pytest.mark.parametrize("name", NAMES)
def test_every_template_names_both_parents_as_mappings_in_order(name):
    template = load_template(name)
    content = yaml.safe_load(filled(template))
    assert [entry["model"] for entry in content["models"]] == [
        {"model": {"path": "/m/one"}},
        {"model": {"path": "/m/two"}},
    ]
    base = {"model": {"path": "/m/base" if template.uses_base else "/m/one"}}
    assert content["base_model"] == base
    assert content["dtype"] == "bfloat16"


def test_the_default_has_the_gradient_of_the_paper():
    content = yaml.safe_load(filled(load_template("slerp-gradient")))
    attention, mlp = [0, 0.5, 0.3, 0.7, 1], [1, 0.5, 0.7, 0.3, 0]
    assert content["parameters"]["t"] == [
        *({"filter": name, "value": attention} for name in ("attn", "attention.")),
        *({"filter": name, "value": mlp} for name in ("mlp", ".fc", "feed_forward.")),
        {"value": 0.5},
    ]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1))
def test_any_path_survives(name):
    path = Path("/m") / f"x{name}"
    content = yaml.safe_load(filled(load_template("slerp"), parents=(path, TWO)))
    assert content["base_model"] == {"model": {"path": str(path)}}


def test_a_path_that_is_not_unicode_is_refused():
    with pytest.raises(RecipeError, match="not valid Unicode"):
        filled(load_template("slerp"), parents=(Path("/m/\udc80"), TWO))


def test_rendering_is_deterministic():
    assert filled(load_template("ties")) == filled(load_template("ties"))


@pytest.mark.parametrize(
    ("tokenizer", "source"),
    [("union", "union"), ("first", {"model": {"path": "/m/one"}}), ("base", {"model": {"path": "/m/base"}})],
)
def test_the_tokenizer_is_added(tokenizer, source):
    content = yaml.safe_load(filled(load_template("slerp"), tokenizer=tokenizer))
    assert content["tokenizer"] == {"source": source}


def test_by_default_no_tokenizer_is_named():
    assert "tokenizer" not in yaml.safe_load(filled(load_template("slerp")))


def test_a_template_that_names_a_tokenizer_keeps_it(tmp_path):
    template = written(tmp_path, f"{MINIMAL}tokenizer: {{source: union, pad_to_multiple_of: 64}}\n")
    content = yaml.safe_load(filled(template, tokenizer="base"))
    assert content["tokenizer"] == {"source": "union", "pad_to_multiple_of": 64}


def test_the_number_of_layers_can_be_used(tmp_path):
    template = written(tmp_path, f"{MINIMAL}# {{{{ num_layers // 2 }}}} layers\n")
    assert template.uses_layers
    assert "# 2 layers" in filled(template)


def test_loops_over_written_lists_conditions_and_filters_can_be_used(tmp_path):
    text = (
        "{% set half = (num_layers / 2)|int %}merge_method: linear\nmodels:\n"
        "{% for parent, weight in [(parent_1, 0.25), (parent_2, 0.75)] %}"
        "  - model: {{ parent }}\n    parameters: {weight: {{ (weight * 2)|round(2) }}}\n{% endfor %}"
        "dtype: {% if dtype == 'bfloat16' and half > 1 %}{{ dtype|upper|lower }}{% else %}float32{% endif %}\n"
        "layers: [{% for n in [1, 2] if n %}{{ n * half }}{% if not loop.last %}, {% endif %}{% endfor %}]\n"
    )
    content = yaml.safe_load(filled(written(tmp_path, text)))
    assert [entry["parameters"]["weight"] for entry in content["models"]] == [0.5, 1.5]
    assert (content["dtype"], content["layers"]) == ("bfloat16", [2, 4])


def test_an_unknown_number_of_layers_is_refused_only_where_it_is_used(tmp_path):
    """GPT-2 and BLOOM call it `n_layer`, and some configurations have none."""
    assert not load_template("slerp").uses_layers
    assert filled(load_template("slerp"), num_layers=None) == filled(load_template("slerp"))
    template = written(tmp_path, f"{MINIMAL}# {{{{ num_layers }}}} layers\n")
    with pytest.raises(RecipeError, match="the configuration of parent 1 gives no number of layers"):
        filled(template, num_layers=None)
    assert identity_of(template) == identity_of(written(tmp_path, MINIMAL))


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(RecipeError, match=r"no recipe 'slerp-gradiant'; known are slerp-gradient, slerp"):
        load_template("slerp-gradiant")


def test_other_folders_can_be_searched(tmp_path):
    (tmp_path / "mine.yaml").write_text(MINIMAL, encoding="utf-8")
    assert load_template("mine", [tmp_path]).text == MINIMAL
    with pytest.raises(RecipeError, match="known are mine"):
        load_template("slerp", [tmp_path])


def test_a_missing_file(tmp_path):
    with pytest.raises(RecipeError, match="there is no recipe file"):
        load_template(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [{{ parent_1 }}]", r"does not use \{\{ parent_2 \}\}"),
        ("models: [{{ parent_2 }}]", r"does not use \{\{ parent_1 \}\}"),
        (MINIMAL + "x: {{ parent_3 }}", "unknown placeholder 'parent_3'; did you mean parent_"),
        (MINIMAL + "\n{{ parent_1", "line 6"),
        (MINIMAL + "{% for %}", "line 5"),
        (
            MINIMAL + "# {{ parent_1.__class__.__mro__ }}",
            "line 5: a recipe may not use the attribute __mro__",
        ),
        (MINIMAL + "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "line 5: a recipe may not use Jinja's Macro"),
        (MINIMAL + "# {{ parent_1.join(parent_2) }}", "may not use Jinja's Call"),
        (MINIMAL + "# {{ 9 ** 9 ** 9 }}", "may not use Jinja's Pow"),
        (MINIMAL + "# {{ dtype ~ dtype }}", "may not use Jinja's Concat"),
        (MINIMAL + "# {{ dtype|center(99999999999) }}", "may not use the filter center"),
        (MINIMAL + "{% set x = [dtype, dtype] %}", "may not use Jinja's List"),
        (MINIMAL + "{% set x %}{{ dtype }}{% endset %}", "may not use Jinja's AssignBlock"),
        (MINIMAL + "{% set x, y = 1, 2 %}", "may not use set with several names"),
        (MINIMAL + "{% include '/etc/passwd' %}", "may not use Jinja's Include"),
        (MINIMAL + "{% for x in dtype %}{% endfor %}", r"may not use a loop over anything but a list such as \[1, 2\]"),
        (MINIMAL + "{% for x in [1] recursive %}{% endfor %}", "may not use a recursive loop"),
        (MINIMAL + "{% for x in [[1, 2]] %}{% endfor %}", "may not use Jinja's List"),
        (MINIMAL + "{% for x, y in [[1, 2, 3]] %}{% endfor %}", "2 names over anything but lists of 2 values"),
        (MINIMAL + "{% for x, (y, z) in [[1, 2]] %}{% endfor %}", "a loop with nested names"),
        (MINIMAL + f"{10 * ('{% for x in [' + '1,' * 10 + '] %}')}{10 * '{% endfor %}'}", r"it takes \d{11} steps"),
        (MINIMAL + "# {{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "its Jinja is nested too deeply"),
        (MINIMAL + "{% for x in [1] %}" * 25 + "{% endfor %}" * 25, "its Jinja is nested too deeply"),
        (MINIMAL + f"# {{{{ {'9' * 5000} }}}}", "4300 digits"),
    ],
)
def test_bad_templates_are_refused_when_loaded(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message):
        written(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{{ parent_1 }}, {{ parent_2 }}]", "not a YAML mapping"),
        ("a: [{{ parent_1 }}\nb: {{ parent_2 }}", "not valid YAML"),
        ("a: '{{ parent_1 }}'\nb: {{ parent_2 }}", r"does not use \{\{ parent_1 \}\} as a model"),
        ("# {{ parent_1 }}\nb: {{ parent_2 }}", r"does not use \{\{ parent_1 \}\} as a model"),
        (MINIMAL + "# {{ num_layers / 0 }}", "cannot be filled in"),
        (MINIMAL + "# {{ 'a' * 10 }}", r"cannot be filled in: \* needs two numbers, and has 'a' and 10"),
        (MINIMAL + "# {{ parent_1 + parent_2 }}", r"cannot be filled in: \+ needs two numbers"),
        (MINIMAL + "# {{ '%99999999999d' % 1 }}", "cannot be filled in: % needs two numbers"),
        (MINIMAL + "# {{ 999999999 * 999999999 }}", r"is not a number between -10\*\*15 and 10\*\*15"),
        (MINIMAL + "# {{ 1.5|round(999999999, 'ceil') }}", "round needs 0 to 15 decimals"),
        (
            MINIMAL + f"{{% for x in [{'1,' * 999}] %}}# {'x' * 300}\n{{% endfor %}}",
            "is longer than 262144 characters",
        ),
        (MINIMAL + "merge_method: ties\n", "line 5: the key 'merge_method' is also in line 1; keep one of the two"),
        (MINIMAL + "a: &a [*a]\n", "line 5: an alias in it refers to the value itself"),
        (MINIMAL + "a: " + "[" * 3000, "line 5: not valid YAML: it is nested too deeply"),
        (MINIMAL + "a: {b: [.nan]}\n", r"once filled in: a.b\[0\] = nan: it must be finite; give a number"),
        (MINIMAL + "a: -.inf\n", "a = -inf: it must be finite"),
        (MINIMAL + "a: 1.0e+400\n", "a = inf: it must be finite"),
        (MINIMAL + "a: 2024-01-31\n", "a: YAML reads .* as a date; put it in quotes"),
    ],
)
def test_bad_templates_are_refused_when_filled_in(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message):
        filled(written(tmp_path, text))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parents": (ONE, ONE)}, "two different models"),
        ({"parents": (Path("one"), TWO)}, "relative path"),
        ({"base": Path("base")}, "relative path"),
        ({"dtype": "bf16"}, "unknown dtype 'bf16'"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    with pytest.raises(RecipeError, match=message):
        filled(load_template("slerp"), **change)


def test_identities_are_stable():
    """Journals and caches name children by it, so the golden values must not change without a reason."""
    assert identity_of(load_template("slerp")) == "f64bcf752902c8333e6c79dfe59c4c801f9f295969a7bcf5c40946a437e41a9b"
    assert identity_of(load_template("ties"), tokenizer="base") == (
        "8da414e98b416e53e160989f6724cb24ada092ba9b73524d5ae47a329f4d6b60"
    )


def test_comments_and_layout_do_not_change_the_identity(tmp_path):
    other = MINIMAL.replace("dtype: {{ dtype }}\n", "")
    other = "# another remark\n" + "dtype:   {{ dtype }}\n\n" + other
    assert identity_of(written(tmp_path, MINIMAL)) == identity_of(written(tmp_path, other))


@pytest.mark.parametrize(
    "change",
    [
        {"parent_identities": ("p2", "p1")},
        {"parent_identities": ("p1", "p3")},
        {"dtype": "float16"},
        {"tokenizer": "union"},
        {"tokenizer": "base"},
        {"mergekit_version": "0.1.6"},
    ],
)
def test_any_change_of_the_child_changes_its_identity(change):
    assert identity_of(load_template("slerp"), **change) != identity_of(load_template("slerp"))


def test_the_base_changes_the_identity_only_if_it_is_used():
    assert identity_of(load_template("slerp"), base_identity="x") == identity_of(load_template("slerp"))
    assert identity_of(load_template("ties"), base_identity="x") != identity_of(load_template("ties"))
    union = {"tokenizer": "base"}
    assert identity_of(load_template("slerp"), base_identity="x", **union) != identity_of(
        load_template("slerp"), **union
    )


def test_all_templates_make_different_children():
    assert len({identity_of(load_template(name)) for name in NAMES}) == len(NAMES)


def test_the_package_is_light_to_import():
    code = (
        "import sys; from evolve.engines import merging; merging.load_template('slerp');"
        "heavy = {'torch', 'transformers', 'mergekit'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3], timeout=60)


def test_an_installed_wheel_uses_the_templates_in_it(tmp_path, monkeypatch):
    import evolve

    (tmp_path / "evolve" / "_recipes").mkdir(parents=True)
    (tmp_path / "evolve" / "_recipes" / "shipped.yaml").write_text(MINIMAL, encoding="utf-8")
    monkeypatch.setattr(evolve, "__file__", str(tmp_path / "evolve" / "__init__.py"))
    assert template_names() == ["shipped"]
    assert load_template("shipped").text == MINIMAL
