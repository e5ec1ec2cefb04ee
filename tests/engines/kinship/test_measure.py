"""The three metrics against their textbook formulas, and the files read for them."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.engines import kinship
from evolve.engines.kinship import measure, reading
from evolve.engines.kinship.plan import Place
from evolve.engines.protocols import KinshipJob
from evolve.errors import ConfigError, KinshipError, ModelError

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64}


def close(found, expected):
    pcc, cs, ed, n = expected
    assert found.pcc == pytest.approx(pcc, abs=1e-9)
    assert found.cs == pytest.approx(cs, abs=1e-9)
    assert found.ed == pytest.approx(ed, rel=1e-9, abs=1e-30)
    assert found.parameters == n


@pytest.mark.parametrize("types", ["f32 f32 f32", "bf16 bf16 bf16", "f16 f16 f16", "bf16 f16 f32", "f32 bf16 f64"])
def test_metrics_of_any_types_are_those_of_the_textbook(lab, tools, types):
    plain = tools.random_weights(tools.shapes)
    models = {"base": plain, "a": tools.jitter(plain, 2, 0.01), "b": tools.jitter(plain, 3, 0.01)}
    for (name, weights), dtype in zip(models.items(), types.split(), strict=True):
        models[name] = {key: t.to(DTYPES[dtype]) for key, t in weights.items()}
        lab.model(name, models[name])
    found = lab.measure("a", "b").pairs[0]
    assert (found.a, found.b, found.left_out) == ("a", "b", ())
    close(found, tools.textbook(*[list(weights.values()) for weights in models.values()]))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_metrics_do_not_depend_on_shapes_shards_or_chunks(tools, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("models")
    shapes = data.draw(st.lists(st.lists(st.integers(1, 9), max_size=3), min_size=1, max_size=4))
    base = tools.random_weights({"norm": (9,), **{f"t{i}": shape for i, shape in enumerate(shapes)}})
    models = {name: tools.jitter(base, i, 0.01) for i, name in enumerate("abcd")}
    for name, weights in {"base": base, **models}.items():
        dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
        weights.update({key: t.to(dtype) for key, t in weights.items()})
        tools.write(folder / name, weights, shards=data.draw(st.integers(1, min(2, len(weights)))))
    every = [(a, b) for a in models for b in models if a != b]
    pairs = data.draw(st.lists(st.sampled_from(every), min_size=1, max_size=6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evolve.engines.kinship.meter._CPU_CHUNK", data.draw(st.integers(1, 60)))
        patch.setattr("evolve.engines.kinship.meter._CPU_BLOCK", data.draw(st.integers(1, 60)))
        result = tools.Lab(folder).measure(pairs=pairs)
    assert [(p.a, p.b) for p in result.pairs] == pairs
    for (a, b), found in zip(pairs, result.pairs, strict=True):
        pcc, cs, ed, n = tools.textbook(*[list(weights.values()) for weights in (base, models[a], models[b])])
        assert found.pcc == pytest.approx(pcc, abs=1e-9)
        assert (found.cs, found.ed, found.parameters) == (pytest.approx(cs, abs=1e-9), pytest.approx(ed, rel=1e-9), n)


def test_sharded_and_single_files_give_the_same_bits(lab, family, tools):
    for name, weights in family.items():
        lab.model(f"sharded/{name}", weights, shards=3)
    sharded = tools.Lab(lab.folder / "sharded").measure("a", "b")
    close(sharded.pairs[0], tools.textbook(*[list(family[name].values()) for name in ("base", "a", "b")]))
    assert sharded.pairs[0].cs == pytest.approx(lab.measure("a", "b").pairs[0].cs, abs=1e-15)


def test_opposite_deltas_have_negative_similarity(lab, tools):
    base = {name: torch.zeros(shape) for name, shape in tools.shapes.items()}
    up = tools.jitter(base, 2)
    lab.model("base", base)
    lab.model("up", up)
    lab.model("down", {name: -t for name, t in up.items()})
    found = lab.measure("up", "down").pairs[0]
    assert (found.cs, found.pcc) == (pytest.approx(-1), pytest.approx(-1))
    assert found.ed == pytest.approx(2 * np.sqrt(sum(float((t.double() ** 2).sum()) for t in up.values())))


def test_deltas_with_a_large_mean_keep_their_correlation(lab, tools):
    base = tools.random_weights({"t": (300, 100)})
    models = {
        "base": base,
        **{n: {"t": t["t"] + 1} for n, t in (("a", tools.jitter(base, 2)), ("b", tools.jitter(base, 3)))},
    }
    for name, weights in models.items():
        lab.model(name, weights)
    close(lab.measure("a", "b").pairs[0], tools.textbook(*[[w["t"]] for w in models.values()]))


def test_the_distance_of_nearly_equal_models_is_exact(lab, tools):
    base = tools.random_weights({"t": (100, 100)})
    a = {"t": base["t"] + 0.5}
    a["t"][0, 0] += 0.25
    b = {"t": a["t"].clone()}
    b["t"][3, 4] += 1e-6
    for name, weights in (("base", base), ("a", a), ("b", b)):
        lab.model(name, weights)
    step = float(b["t"][3, 4].double() - a["t"][3, 4].double())
    assert lab.measure("a", "b").pairs[0].ed == pytest.approx(step, rel=1e-12)
    lab.model("twin", a)
    found = lab.measure("a", "twin").pairs[0]
    assert (found.ed, found.pcc, found.cs) == (0, pytest.approx(1), pytest.approx(1))


def test_a_kinship_has_no_direction_and_does_not_depend_on_other_pairs(lab, family):
    alone = lab.measure("a", "b").pairs[0]
    back, other, again = lab.measure(pairs=[("b", "a"), ("c", "b"), ("a", "b")]).pairs
    assert (back.a, back.b) == ("b", "a")
    for found in (back, again):
        assert (found.pcc, found.cs, found.ed, found.parameters) == (alone.pcc, alone.cs, alone.ed, alone.parameters)
    assert other.pcc != alone.pcc


def test_tensors_that_are_not_parameters_are_not_compared(lab, family, tools):
    extra = {"steps": torch.tensor([1, 2]), "model.rotary_emb.inv_freq": torch.ones(4), "mask": torch.tensor([True])}
    for name, weights in family.items():
        lab.model(f"more/{name}", {**weights, **extra} if name != "b" else weights)
    found = tools.Lab(lab.folder / "more").measure("a", "b").pairs[0]
    assert found == lab.measure("a", "b").pairs[0]


def test_tied_embeddings_count_once(lab, tools):
    base = tools.random_weights({"model.embed_tokens.weight": (6, 4), "model.up.weight": (3, 3)})
    models = {"base": base, "a": tools.jitter(base, 2), "b": tools.jitter(base, 3)}
    for name, weights in models.items():
        lab.model(f"tied/{name}", weights)
        twice = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()}
        lab.model(f"twice/{name}", twice, tie_word_embeddings=True)
        lab.model(f"untied/{name}", twice, tie_word_embeddings=False)
    tied, twice, untied = (
        tools.Lab(lab.folder / kind).measure("a", "b").pairs[0] for kind in ("tied", "twice", "untied")
    )
    close(tied, tools.textbook(*[list(weights.values()) for weights in models.values()]))
    assert twice == tied
    assert untied.parameters == tied.parameters + 24


def test_tensors_that_a_model_lacks_are_left_out(lab, family):
    lab.model("d", {**family["c"], "model.extra.weight": torch.ones(3, 4)})
    lab.model("e", {name: t for name, t in family["c"].items() if name != "model.layers.0.up.weight"})
    (ad, ae) = lab.measure(pairs=[("a", "d"), ("a", "e")]).pairs
    total = sum(t.numel() for t in family["base"].values())
    assert ad.left_out == (("model.extra.weight", 3, 12 / total),)
    assert ae.left_out == (("model.layers.0.up.weight", 13, 143 / total),)
    assert (ad.parameters, ae.parameters) == (total, total - 143)
    assert ad.pcc == lab.measure("a", "c").pairs[0].pcc


def test_every_byte_is_read_once_for_all_pairs_in_small_chunks(lab, family, chunk, monkeypatch):
    chunk(16, 8)
    reads, rooms = [], []
    preadv, buffers = os.preadv, reading._buffers

    def spy(descriptor, views, position):
        reads.append((Path(f"/proc/self/fd/{descriptor}").readlink(), position, len(views[0])))
        return preadv(descriptor, views, position)

    monkeypatch.setattr(reading.os, "preadv", spy)
    monkeypatch.setattr(reading, "_buffers", lambda sizes, pinned: rooms.append(sizes) or buffers(sizes, pinned=pinned))
    result = lab.measure("a", "b", "c")
    size = 4 * sum(t.numel() for t in family["base"].values())
    for name in family:
        spans = sorted((start, length) for path, start, length in reads if path.parent.name == name)
        ends = [start + length for start, length in spans]
        assert [start for start, _ in spans[1:]] == ends[:-1]
        assert sum(length for _, length in spans) == size
        assert max(length for _, length in spans) <= 16 * 4
    assert result.bytes_read == 4 * size
    assert len(rooms) == 2
    assert all(room <= 16 * 4 for sizes in rooms for room in sizes.values())


def test_models_in_no_pair_are_not_read(lab, family):
    models = {"a": lab.folder / "a", "b": lab.folder / "b", "ghost": lab.folder / "nowhere"}
    assert measure(KinshipJob(lab.folder / "base", models, (("a", "b"),)), lambda *_: None).pairs
    assert measure(KinshipJob(lab.folder / "nowhere", models, ()), lambda *_: None).pairs == ()


def test_progress_is_reported_in_bytes(lab, family, chunk):
    chunk(20, 20)
    reports = []
    models = {name: lab.folder / name for name in "ab"}
    result = measure(KinshipJob(lab.folder / "base", models, (("a", "b"),)), lambda *args: reports.append(args))
    done = [entry[1] for entry in reports]
    assert {entry[0] for entry in reports} == {"measuring kinship"}
    assert {entry[2] for entry in reports} == {result.bytes_read}
    assert (done, done[0], done[-1]) == (sorted(done), 0, result.bytes_read)
    assert len(done) > 5


def test_torch_is_imported_late_and_its_threads_are_restored(lab, family):
    assert pickle.loads(pickle.dumps(measure)) is kinship.measure
    code = "import sys, evolve.engines.kinship, evolve.engines.checkpoints; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    lab.measure("a", "b")
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == before + 1


# ------------------------------------------------------------------------------------------------------- refusals


def test_a_model_equal_to_the_base_is_named(lab, family):
    lab.model("same", family["base"])
    with pytest.raises(KinshipError, match="weights of same are those of the base model"):
        lab.measure("a", "same")


def test_a_constant_delta_has_no_correlation(lab, tools):
    base = {"t": torch.zeros(50)}
    for name, weights in (("base", base), ("a", tools.jitter(base, 2)), ("flat", {"t": torch.full((50,), 0.1)})):
        lab.model(name, weights)
    with pytest.raises(KinshipError, match=r"weights of flat differ .* by one number everywhere"):
        lab.measure("a", "flat")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_named(lab, family, bad):
    weights = {name: t.clone() for name, t in family["b"].items()}
    weights["model.layers.0.up.weight"][3, 4] = bad
    lab.model("bad", weights)
    with pytest.raises(KinshipError, match=r"model\.layers\.0\.up\.weight of bad holds numbers that are not finite"):
        lab.measure("a", "bad", "c")
    with pytest.raises(KinshipError, match=r"model\.layers\.0\.up\.weight of the base model holds"):
        lab.measure("a", "b", base="bad")


def test_shapes_of_another_architecture_are_refused(lab, family):
    lab.model("wide", {**family["b"], "model.norm.weight": torch.ones(8)})
    with pytest.raises(ModelError, match=r"model\.norm\.weight has the shape \[8\].*\[7\]"):
        lab.measure("a", "wide")


def test_tied_beside_untied_is_refused(lab, tools):
    base = tools.random_weights({"model.embed_tokens.weight": (6, 4), "lm_head.weight": (6, 4)})
    lab.model("base", base)
    lab.model("a", tools.jitter(base, 2))
    lab.model("tied", {"model.embed_tokens.weight": torch.ones(6, 4)})
    with pytest.raises(ModelError, match=r"tied ties its output embeddings .*base does not"):
        lab.measure("a", "tied")


def test_quantized_weights_are_refused(lab, family):
    lab.model("int4", family["b"], quantization_config={"bits": 4})
    with pytest.raises(ModelError, match="int4 is quantized"):
        lab.measure("a", "int4")
    lab.model("fp8", {**family["b"], "model.norm.weight": torch.ones(7).to(torch.float8_e4m3fn)})
    with pytest.raises(ModelError, match=r"model\.norm\.weight in .*fp8 is of type F8_E4M3"):
        lab.measure("a", "fp8")


def test_unrelated_models_share_nothing(lab, family):
    lab.model("other", {"transformer.h.0.weight": torch.ones(3)})
    with pytest.raises(KinshipError, match="a and other share no parameter"):
        lab.measure("a", "other")


def test_unknown_names_and_devices_are_refused(lab, family):
    with pytest.raises(KinshipError, match="a pair names z, which is not among the models of the job: a"):
        measure(KinshipJob(lab.folder / "base", {"a": lab.folder / "a"}, (("a", "z"),)), lambda *_: None)
    for device, words in (("abacus", "is unknown"), ("cuda:99", "is missing"), ("meta", "is unknown")):
        with pytest.raises(ConfigError, match=words):
            lab.measure("a", "b", device=device)


def test_a_file_that_shrinks_during_the_measurement_is_an_error(lab, family):
    path = lab.folder / "a" / "model.safetensors"
    with pytest.raises(ModelError, match="it ends before its last tensor"):
        reading.read_place(Place(path, "F32", path.stat().st_size - 8), 0, 4, 1, np.empty(16, np.uint8))
    with pytest.raises(ModelError, match="cannot be read"):
        reading.read_place(Place(path.with_name("missing"), "F32", 0), 0, 4, 1, np.empty(16, np.uint8))


def test_a_read_error_ends_the_pass(lab, family, monkeypatch):
    def fail(*_):
        raise OSError("input/output error")

    monkeypatch.setattr(reading.os, "preadv", fail)
    with pytest.raises(ModelError, match="cannot be read: input/output error"):
        lab.measure("a", "b")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_and_cpu_agree(lab, family):
    one, other = (lab.measure("a", "b", device=device).pairs[0] for device in ("cpu", "cuda"))
    assert (one.pcc, one.cs, one.ed) == pytest.approx((other.pcc, other.cs, other.ed), rel=1e-12)


def test_a_configuration_that_is_not_an_object_is_refused(lab, family):
    (lab.folder / "a" / "config.json").write_text(json.dumps([1]))
    with pytest.raises(ModelError, match="does not hold a JSON object"):
        lab.measure("a", "b")
