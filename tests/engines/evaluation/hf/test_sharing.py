"""Shared prefixes: the answers of lm-eval's own class from a fraction of its tokens, by families and dtypes."""

from __future__ import annotations

import functools
import logging
import random
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from evolve.engines.evaluation.hf import probe
from evolve.engines.evaluation.hf.model import SharedPrefixLM
from evolve.engines.evaluation.hf.packing import pack
from evolve.engines.evaluation.hf.plan import TokenRequest, plan_batches
from evolve.engines.evaluation.interception import Interception, Progress
from evolve.engines.evaluation.request_cache import RequestCache
from tests.engines.evaluation import _world
from tests.support import families

PRIMER = "Q: Who sold the cup?\nA: Ann sold the cup.\n\nQ: Who has the lamp?\nA: Bob has no lamp.\n\n"
SHARED = sorted(families.SETTINGS.keys() - {"bloom", "lfm2", "mamba", "mamba2"})
PLAIN = {
    "bloom": ({}, "takes no positions"),
    "falcon": ({"alibi": True}, "cannot compute them"),
    "lfm2": ({}, "cannot compute them"),
    "mamba": ({}, "takes no positions"),
    "mamba2": ({}, "takes no positions"),
    "mistral": ({"sliding_window": 16}, r"differ by \d"),
}
Pair = tuple[str, str]


def truthful(count: int) -> list[Pair]:
    """Return items of one primer, each with five choices."""
    return [
        (f"{PRIMER}Q: {item['question']}\nA:", f" {choice}")
        for item in _world.truthfulqa_items(count, 5)
        for choice in item["mc2_targets"]["choices"]
    ]


def coreference(count: int, shots: int = 2) -> list[Pair]:
    """Return items of which two contexts have one continuation, each after other examples."""
    rnd, pairs = random.Random(3), []
    for item in _world.winogrande_items(count, 2):
        before, after = item["sentence"].split("_")
        examples = "".join(f"{rnd.choice(PRIMER.splitlines())}\n\n" for _ in range(shots))
        pairs += [(examples + before + item[option], after) for option in ("option1", "option2")]
    return pairs


MIXED = [
    *truthful(5),
    *coreference(5),
    ("", "Ann sold the cup"),
    ("", "</s>Bob"),
    ("Which letter? ", "A"),
    ("Which letter? ", "B"),
    ("Which letter?", " B"),
    ("Ann", "Ann sold"),
    ("Ann s", "old the cup"),
    *truthful(1),
]
"""All shapes of requests: empty contexts, one-token choices, spaces and merges at the boundary, duplicates."""


def requests(pairs: list[Pair]) -> list[Instance]:
    return [Instance("loglikelihood", {}, pair, number, ("t", number, 1)) for number, pair in enumerate(pairs)]


def load(cls: type[HFLM], folder: Path, **options) -> HFLM:
    options = {"device": "cpu", "dtype": "float32", "batch_size": 4} | options
    return cls(str(folder), **options)


def differences(folder: Path, pairs: list[Pair], **options) -> tuple[SharedPrefixLM, float, int]:
    """Return our model, the largest difference of a log-likelihood from lm-eval's, and the changed greedy flags."""
    ours, plain = load(SharedPrefixLM, folder, **options), load(HFLM, folder, **options)
    found = ours.loglikelihood(requests(pairs), disable_tqdm=True)
    expected = plain.loglikelihood(requests(pairs), disable_tqdm=True)
    assert len(found) == len(pairs)
    assert all(isinstance(value, float) and isinstance(flag, bool) for value, flag in found)
    largest = max(abs(one[0] - other[0]) for one, other in zip(found, expected, strict=True))
    return ours, largest, sum(one[1] != other[1] for one, other in zip(found, expected, strict=True))


@contextmanager
def counted(lm: HFLM) -> Iterator[list[tuple[int, int]]]:
    """List the shape of the tokens of each pass."""
    shapes: list[tuple[int, int]] = []

    def look(_module, positional, named) -> None:
        tokens = positional[0] if positional else named["input_ids"]
        shapes.append(tuple(tokens.shape))

    handle = lm.model.register_forward_pre_hook(look, with_kwargs=True)
    yield shapes
    handle.remove()


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return families.save(tmp_path_factory.mktemp("llama") / "model", max_position_embeddings=1024)


@pytest.mark.parametrize("family", SHARED)
def test_answers_equal_lm_evals(family, tmp_path):
    families.save(tmp_path / "model", family, tied=None, max_position_embeddings=1024)
    ours, largest, flags = differences(tmp_path / "model", MIXED)
    assert ours.not_shared is None
    assert largest < 1e-4
    assert flags == 0


@pytest.mark.parametrize("family", sorted(PLAIN))
def test_a_family_that_cannot_share_prefixes_is_found_when_it_is_loaded(family, tmp_path, caplog):
    settings, words = PLAIN[family]
    families.save(tmp_path / "model", family, tied=None, **({"max_position_embeddings": 1024} | settings))
    with caplog.at_level(logging.INFO, logger="evolve.engines.evaluation"):
        ours, largest, flags = differences(tmp_path / "model", MIXED)
    assert ours.not_shared is not None
    (message,) = [text for text in caplog.messages if "not shared" in text]
    assert message == f"prefixes are not shared: {ours.not_shared}"
    assert re.search(words, message)
    assert (largest, flags) == (0, 0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_answers_in_half_precision_are_as_near_to_the_exact_ones_as_lm_evals(llama, dtype):
    """lm-eval rounds each log-probability to the dtype; ours are summed in float32."""
    pairs = truthful(6) + coreference(6)
    exact = load(HFLM, llama).loglikelihood(requests(pairs), disable_tqdm=True)
    errors = {}
    for cls in (HFLM, SharedPrefixLM):
        lm = load(cls, llama, dtype=dtype)
        found = lm.loglikelihood(requests(pairs), disable_tqdm=True)
        errors[cls] = [abs(one[0] - other[0]) for one, other in zip(found, exact, strict=True)]
    assert lm.not_shared is None
    assert sum(errors[SharedPrefixLM]) < 1.2 * sum(errors[HFLM])


@pytest.mark.parametrize("options", [{"max_length": 40}, {"softmax_dtype": "float64"}, {"add_bos_token": True}])
def test_options_of_lm_evals_class_are_kept(llama, options):
    _, largest, flags = differences(llama, MIXED, **options)
    assert largest < 1e-4
    assert flags == 0


def test_one_batch_size_gives_the_answers_of_another(llama):
    found = [
        load(SharedPrefixLM, llama, batch_size=size).loglikelihood(requests(MIXED), disable_tqdm=True)
        for size in (1, 3, 64)
    ]
    for answers in zip(*found, strict=True):
        assert max(value for value, _ in answers) - min(value for value, _ in answers) < 1e-4
        assert len({flag for _, flag in answers}) == 1


@pytest.mark.parametrize(("context", "continuation"), [("Ann", ""), ("", ""), ("", "</s>")])
def test_requests_that_lm_eval_refuses_stay_errors(llama, context, continuation):
    raised = []
    for cls in (HFLM, SharedPrefixLM):
        with pytest.raises((AssertionError, IndexError)) as caught:
            load(cls, llama, prefix_token_id=2).loglikelihood(requests([(context, continuation)]), disable_tqdm=True)
        raised.append(type(caught.value))
    assert raised[0] is raised[1]


def test_a_task_with_a_primer_needs_a_fifth_of_the_tokens(llama):
    pairs = truthful(30)
    tokens = {}
    for cls in (HFLM, SharedPrefixLM):
        lm = load(cls, llama, batch_size=8)
        with counted(lm) as shapes:
            lm.loglikelihood(requests(pairs), disable_tqdm=True)
        tokens[cls] = sum(rows * width for rows, width in shapes)
    assert tokens[SharedPrefixLM] * 5 <= tokens[HFLM]


def test_one_token_choices_share_a_row_as_in_lm_eval(llama):
    pairs = [(context, choice) for context, _ in truthful(4)[::5] for choice in (" A", " B", " C", " D")]
    ours, plain = load(SharedPrefixLM, llama), load(HFLM, llama)
    with counted(ours) as our_shapes, counted(plain) as their_shapes:
        ours.loglikelihood(requests(pairs), disable_tqdm=True)
        plain.loglikelihood(requests(pairs), disable_tqdm=True)
    assert sum(a * b for a, b in our_shapes) <= sum(a * b for a, b in their_shapes)


def assert_only_long_requests_are_plain(model, caplog, **arguments):
    caplog.set_level(logging.INFO, logger="evolve.engines.evaluation")
    ours, largest, flags = differences(model, truthful(4), **arguments)
    assert ours.not_shared is None
    assert "prefixes are not shared: a request has" in caplog.text
    assert (largest, flags) == (0, 0)
    caplog.clear()
    _, largest, _ = differences(model, [("Who has it?", " Ann"), ("Who has it?", " Bob")])
    assert largest < 1e-4
    assert "not shared" not in caplog.text


def test_a_window_shorter_than_a_request_is_known_by_the_configuration(tmp_path, caplog):
    """The probe is shorter than this window, but the requests are longer."""
    families.save(tmp_path / "model", "mistral", tied=None, max_position_embeddings=1024, sliding_window=64)
    assert_only_long_requests_are_plain(tmp_path / "model", caplog)


ROTARY = {
    "longrope": ("phi3", {"short_factor": [1.0] * 4, "long_factor": [8.0] * 4, "factor": 16.0}),
    "dynamic": ("llama", {"factor": 4.0}),
}


@pytest.mark.parametrize("kind", sorted(ROTARY))
def test_positions_that_depend_on_the_longest_request_are_known_by_the_configuration(kind, tmp_path, caplog):
    """The probe is shorter than the length with which these positions change."""
    family, parameters = ROTARY[kind]
    lengths = {"original_max_position_embeddings": 64} if kind == "longrope" else {"max_position_embeddings": 64}
    rotary = {"rope_type": kind, "rope_theta": 10000.0, **parameters}
    families.save(
        tmp_path / "model", family, tied=None, **({"max_position_embeddings": 1024} | lengths), rope_parameters=rotary
    )
    assert_only_long_requests_are_plain(tmp_path / "model", caplog, max_length=512)


def test_flash_attention_gets_no_mask_of_four_dimensions(llama, monkeypatch):
    """It would read beyond the mask, which no probe survives on a GPU."""
    from transformers import LlamaForCausalLM

    forward, masks = LlamaForCausalLM.forward, []

    def look(self, *positional, **named):
        masks.append(named.get("attention_mask"))
        return forward(self, *positional, **named)

    loaded = HFLM._create_model

    def flash(self, *positional, **named):
        loaded(self, *positional, **named)
        self._model.config._attn_implementation_internal = "flash_attention_2"

    monkeypatch.setattr(LlamaForCausalLM, "forward", look)
    monkeypatch.setattr(HFLM, "_create_model", flash)
    lm = load(SharedPrefixLM, llama)
    assert lm.not_shared == "its attention flash_attention_2 takes no mask of four dimensions"
    assert masks == []


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft
def test_the_weights_of_an_adapter_share_prefixes(llama, tmp_path):
    families.adapt(tmp_path / "adapter", llama)
    ours, largest, flags = differences(llama, MIXED, peft=str(tmp_path / "adapter"))
    assert ours.not_shared is None
    assert largest < 1e-4
    assert flags == 0


def test_embeddings_of_another_class_are_no_failure(llama, monkeypatch):
    """Their own code need not have torch's names."""
    from transformers import LlamaForCausalLM

    monkeypatch.setattr(LlamaForCausalLM, "get_input_embeddings", lambda self: torch.nn.Identity())
    assert load(SharedPrefixLM, llama).not_shared is None


def test_the_probe_has_a_prefix_and_a_padded_batch_of_several_requests():
    found = probe.probe_requests(300)
    assert found == probe.probe_requests(300)
    assert len(found) == 8
    batches = plan_batches(found, probe.PROBE_BATCH_SIZE)
    assert any(batch.prefix is not None and len({row.length for row in batch.rows}) > 1 for batch in batches)
    assert any(len(row.requests) > 1 for batch in batches for row in batch.rows)


def test_the_probe_finds_a_mask_that_a_model_ignores(llama, monkeypatch):
    """A model that sees the tokens of another choice, and one that counts positions along the row."""
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward
    for name in ("attention_mask", "position_ids"):
        with monkeypatch.context() as patch:

            @functools.wraps(forward)
            def ignore(*positional, name=name, **named):
                return forward(*positional, **(named | {name: None}))

            patch.setattr(LlamaForCausalLM, "forward", ignore)
            assert "differ" in (load(SharedPrefixLM, llama).not_shared or "")


def test_the_requests_of_every_batch_are_all_requests_once():
    rnd = random.Random(1)
    for _ in range(50):
        items = []
        for _ in range(rnd.randint(1, 12)):
            start = tuple(rnd.choices(range(3), k=rnd.randint(1, 25)))
            for _ in range(rnd.randint(1, 4)):
                targets = tuple(rnd.choices(range(3), k=rnd.randint(1, 6)))
                items.append(TokenRequest((start + targets)[:-1], targets))
        size = rnd.randint(1, 5)
        longest = max(len(item.tokens) for item in items)
        batches = plan_batches(items, size)
        numbers = [number for batch in batches for row in batch.rows for number in row.requests]
        assert sorted(numbers) == list(range(len(items)))
        for batch in batches:
            packed = pack(batch, items)
            depth = 0 if batch.prefix is None else len(batch.prefix.tokens)
            width = len(packed.tokens[0])
            assert len(packed.tokens) * width <= size * longest
            for number, slots in packed.slots.items():
                tokens = seen_by(packed, slots[-1], width)
                prefix = () if batch.prefix is None else batch.prefix.tokens
                assert prefix + tokens == items[number].tokens
                assert len(slots) == len(items[number].targets)
                row, column = divmod(slots[-1], width)
                assert packed.positions[row][column] == depth + len(tokens) - 1


def seen_by(packed, slot: int, width: int) -> tuple[int, ...]:
    """Return the tokens that one token of a batch sees, itself included."""
    row, column = divmod(slot, width)
    return tuple(packed.tokens[row][c] for c in range(column + 1) if column < packed.ends[row][c])


def test_contexts_that_grow_by_a_token_are_planned():
    items = [TokenRequest(tuple(range(length)), (1,)) for length in range(1, 3000)]
    batches = plan_batches(items, 1)
    assert sum(len(row.requests) for batch in batches for row in batch.rows) == len(items)


class Stopped(Exception):
    """The end of an evaluation at some batch."""


@pytest.mark.parametrize("shares", [True, False], ids=["shared", "plain"])
def test_an_interrupted_list_continues_with_the_same_batches(llama, tmp_path, monkeypatch, shares):
    """Stopped at any batch or any answer: each answer of the resumed list is equal to the last digit."""
    lm = load(SharedPrefixLM, llama, batch_size=2)
    lm.not_shared = None if shares else "a test"
    pairs = [*truthful(12), *coreference(6)]

    def answer(cache: RequestCache, stop: int | None = None) -> tuple[list, list]:
        instances, computed = requests(pairs), []
        name = "_answer_batch" if shares else "_model_call"
        compute = getattr(SharedPrefixLM, name)

        def counting(self, *args, **kwargs):
            if stop is not None and len(computed) == stop:
                raise Stopped
            computed.append(args)
            return compute(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(SharedPrefixLM, name, counting)
            progress = Progress(_world.silent, {"t": len(pairs)})
            with Interception("t", progress, cache, lambda: instances).attached(lm):
                return lm.loglikelihood(instances), computed

    whole, batches = answer(RequestCache(None))
    assert len(batches) > 4
    for stop in range(1, len(batches)):
        path = tmp_path / f"{stop}.db"
        with closing(RequestCache(path, interval=0)) as cache, pytest.raises(Stopped):
            answer(cache, stop)
        with closing(RequestCache(path)) as cache:
            found, computed = answer(cache)
            # The answers of the last batch before the stop may not have been committed.
            assert len(batches) - stop <= len(computed) <= len(batches) - stop + 1
        assert found == whole

    class Cut(RequestCache):
        """A cache whose process is killed when it takes an answer."""

        left = 0

        def add(self, request: str, answer: object) -> None:
            self.left -= 1
            if self.left == 0:
                raise Stopped
            super().add(request, answer)

    for stop in range(1, len(pairs), 7):
        path = tmp_path / f"answer-{stop}.db"
        with closing(Cut(path, interval=0)) as cache:
            cache.left = stop
            with pytest.raises(Stopped):
                answer(cache)
        with closing(RequestCache(path)) as cache:
            assert answer(cache)[0] == whole


def test_progress_is_reported_batch_by_batch(llama, monkeypatch):
    lm = load(SharedPrefixLM, llama, batch_size=1)
    instances = requests(truthful(6))
    seen: list[int] = []
    progress = Progress(lambda _, done, __: seen.append(done), {"t": 60})
    monkeypatch.setattr("evolve.engines.evaluation.interception.time.monotonic", iter(range(10**6)).__next__)
    with Interception("t", progress, RequestCache(None), lambda: instances).attached(lm):
        lm.loglikelihood(instances)
    assert seen == sorted(seen)
    assert len(set(seen)) > 5
    assert seen[-1] == 60


def test_half_the_batch_size_needs_half_the_tokens_at_once(llama):
    """After a lack of memory evolve halves the batch size."""
    most = {}
    for size in (8, 4):
        lm = load(SharedPrefixLM, llama, batch_size=size)
        with counted(lm) as shapes:
            lm.loglikelihood(requests(coreference(40)), disable_tqdm=True)
        most[size] = max(rows * width for rows, width in shapes)
    assert most[4] <= 0.6 * most[8]


def test_a_lack_of_memory_in_the_probe_is_one(llama, monkeypatch):
    def full(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("evolve.engines.evaluation.hf.passes.PackedPasses.answer", full)
    with pytest.raises(torch.OutOfMemoryError):
        load(SharedPrefixLM, llama)
