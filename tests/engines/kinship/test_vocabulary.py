"""Embeddings of different vocabularies: rows are compared by their tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.errors import ModelError

EMBED, HEAD, UP = "model.embed_tokens.weight", "lm_head.weight", "model.up.weight"


def words(n):
    return [f"w{i}" for i in range(n)]


def resized(tools, rows, seed, *, embed=EMBED, head=HEAD):
    """Write a model with the given number of rows over a base of 12 rows."""
    base = tools.random_weights({embed: (12, 4), UP: (3, 3), head: (12, 4)})
    weights = tools.jitter(base, seed) if seed else base
    own = torch.full((max(0, rows - 12), 4), 9.0)
    return {name: torch.cat([t, own])[:rows].contiguous() if name != UP else t for name, t in weights.items()}


def cut(weights, rows):
    return [t if name == UP else t[rows] for name, t in weights.items()]


def agree(found, expected):
    assert (found.pcc, found.cs, found.ed) == pytest.approx(expected[:3], rel=1e-9)
    assert found.parameters == expected[3]


def test_rows_that_a_model_lacks_are_left_out_of_its_pairs(lab, tools):
    """The sizes of the paper's own models: n, n + 1 and n + 2 tokens."""
    models = {
        "base": resized(tools, 12, 0),
        "a": resized(tools, 13, 2),
        "b": resized(tools, 14, 3),
        "c": resized(tools, 10, 4),
    }
    for name, weights in models.items():
        lab.model(name, weights, tokens=words(len(weights[EMBED])), vocab_size=len(weights[EMBED]))
    result = lab.measure(pairs=[("a", "b"), ("a", "c")])
    ab, ac = result.pairs
    assert result.bytes_read == 4 * (4 * 9 + 2 * 4 * (12 + 12 + 12 + 10))  # no row that is not compared
    agree(ab, tools.textbook(*[cut(models[name], slice(12)) for name in ("base", "a", "b")]))
    agree(ac, tools.textbook(*[cut(models[name], slice(10)) for name in ("base", "a", "c")]))
    total = 2 * 48 + 9
    assert ab.left_out == ((HEAD, 2, 8 / total), (EMBED, 2, 8 / total))
    assert ac.left_out == ((HEAD, 3, 12 / total), (EMBED, 3, 12 / total))


def test_rows_are_paired_by_token_in_any_order(lab, tools, chunk):
    chunk(10, 6)
    models = {"base": resized(tools, 12, 0), "a": resized(tools, 12, 2), "b": resized(tools, 12, 3)}
    for name, weights in models.items():
        lab.model(name, weights, tokens=words(12))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    moved = {name: t if name == UP else t[order].contiguous() for name, t in models["b"].items()}
    lab.model("moved", moved, tokens=[f"w{i}" for i in order])
    one, other = lab.measure("a", "b").pairs[0], lab.measure("a", "moved").pairs[0]
    agree(other, (one.pcc, one.cs, one.ed, one.parameters))
    assert other.left_out == ()
    assert other.pcc != pytest.approx(
        tools.textbook(*[cut(w, slice(12)) for w in (models["base"], models["a"], moved)])[0]
    )


def test_padding_is_compared_only_where_all_models_agree(lab, tools):
    """Twelve rows of which the last two belong to no token, beside a model that is padded to sixteen."""
    models = {
        "base": resized(tools, 12, 0),
        "a": resized(tools, 12, 2),
        "b": resized(tools, 12, 3),
        "p": resized(tools, 16, 3),
    }
    for name, weights in models.items():
        lab.model(name, weights, tokens=words(10))
    ab, ap = lab.measure(pairs=[("a", "b"), ("a", "p")]).pairs
    agree(ab, tools.textbook(*[cut(models[name], slice(12)) for name in ("base", "a", "b")]))
    agree(ap, tools.textbook(*[cut(models[name], slice(10)) for name in ("base", "a", "p")]))
    assert (ab.left_out, [entry[:2] for entry in ap.left_out]) == ((), [(HEAD, 6), (EMBED, 6)])


def test_a_token_that_takes_over_a_padding_row_is_not_compared(lab, tools):
    for name, tokens, seed in (("base", 10, 0), ("a", 10, 2), ("b", 11, 3)):
        lab.model(name, resized(tools, 12, seed), tokens=words(tokens))
    assert [entry[:2] for entry in lab.measure("a", "b").pairs[0].left_out] == [(HEAD, 2), (EMBED, 2)]


def test_tokens_without_a_row_are_not_compared(lab, tools):
    """Tokenizers with more tokens than the embeddings have rows: in the base, in a model, and in both."""
    for name, rows, tokens, seed in (("base", 11, 14, 0), ("a", 12, 12, 2), ("b", 10, 13, 3)):
        lab.model(name, resized(tools, rows, seed), tokens=words(tokens))
    found = lab.measure("a", "b").pairs[0]
    agree(found, tools.textbook(*[cut(resized(tools, 12, seed), slice(10)) for seed in (0, 2, 3)]))
    assert [entry[:2] for entry in found.left_out] == [(HEAD, 2), (EMBED, 2)]


def test_tokenizers_of_equal_files_are_not_opened(lab, tools):
    """Not even damaged ones: all rows of models of one size and one tokenizer are compared anyway."""
    for name, seed in (("base", 0), ("a", 2), ("b", 3)):
        lab.model(name, resized(tools, 12, seed), tokens=words(12))
        (lab.folder / name / "tokenizer.json").write_text("damaged")
    assert lab.measure("a", "b").pairs[0].left_out == ()
    (lab.folder / "a" / "tokenizer.json").write_text("damaged otherwise")
    with pytest.raises(ModelError, match="cannot be read"):
        lab.measure("a", "b")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_vocabularies_agree_with_a_dictionary_of_rows(tools, tmp_path_factory, data):
    lab = tools.Lab(tmp_path_factory.mktemp("models"))
    subsets = st.lists(st.sampled_from(words(8)), min_size=1, unique=True).flatmap(st.permutations)
    vocabularies, models = {"base": words(8)}, {"base": tools.random_weights({EMBED: (8, 3), UP: (4, 4)})}
    for i, name in enumerate("abc"):
        tokens = vocabularies[name] = data.draw(subsets)
        rows = [int(token[1:]) for token in tokens]
        weights = tools.jitter(models["base"], i)
        padding = torch.ones(data.draw(st.integers(0, 3)), 3)
        models[name] = {EMBED: torch.cat([weights[EMBED][rows], padding]), UP: weights[UP]}
    for name, weights in models.items():
        lab.model(name, weights, tokens=vocabularies[name])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evolve.engines.kinship.meter._CPU_CHUNK", data.draw(st.integers(1, 20)))
        result = lab.measure("a", "b", "c")
    for found in result.pairs:
        trio = ("base", found.a, found.b)
        same = len({tuple(vocabularies[n]) for n in trio}) == 1 and len({len(models[n][EMBED]) for n in trio}) == 1
        shared = [t for t in words(8) if all(t in vocabularies[name] for name in trio)]
        rows = {name: [vocabularies[name].index(token) for token in shared] for name in trio}
        parts = [[models[n][EMBED] if same else models[n][EMBED][rows[n]], models[n][UP]] for n in trio]
        agree(found, tools.textbook(*parts))


def test_without_a_tokenizer_rows_of_one_number_are_paired(lab, tools):
    for name, seed in (("base", 0), ("a", 2), ("b", 3)):
        lab.model(name, resized(tools, 12, seed), tokens=None if name == "a" else words(12))
    assert lab.measure("a", "b").pairs[0].left_out == ()


@pytest.mark.parametrize("bare", ["base", "b"])
def test_without_a_tokenizer_rows_of_two_numbers_are_refused(lab, tools, bare):
    for name, rows, seed in (("base", 12, 0), ("a", 12, 2), ("b", 13, 3)):
        lab.model(name, resized(tools, rows, seed), tokens=None if name == bare else words(rows))
    with pytest.raises(ModelError, match=rf"embeddings of 12 and 13 rows, and \S*/{bare} has no tokenizer"):
        lab.measure("a", "b")


def test_embeddings_of_gpt_neox_are_recognized(lab, tools):
    names = {"embed": "gpt_neox.embed_in.weight", "head": "embed_out.weight"}
    for name, rows, seed in (("base", 12, 0), ("a", 12, 2), ("b", 13, 3)):
        lab.model(name, resized(tools, rows, seed, **names), tokens=words(rows), model_type="gpt_neox")
    assert [entry[:2] for entry in lab.measure("a", "b").pairs[0].left_out] == [(n, 1) for n in sorted(names.values())]


def test_other_tensors_must_have_equal_shapes(lab, tools):
    for name, rows, seed in (("base", 12, 0), ("a", 12, 2), ("b", 13, 3)):
        lab.model(name, {**resized(tools, 12, seed), UP: torch.ones(rows, 3) + seed}, tokens=words(12), vocab_size=rows)
    with pytest.raises(ModelError, match=r"model\.up\.weight has the shape \[13, 3\]"):
        lab.measure("a", "b")
