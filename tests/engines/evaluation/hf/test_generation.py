"""Greedy answers: the texts of lm-eval's own class, in fewer steps, and its own code where they could differ."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from evolve.engines.evaluation.hf import decoding, generation, rows
from evolve.engines.evaluation.hf.model import SharedPrefixLM
from evolve.engines.evaluation.interception import Interception, Progress
from evolve.engines.evaluation.request_cache import RequestCache
from evolve.errors import EvaluationError
from tests.engines.evaluation import _world
from tests.support import families

FAMILIES = {
    "bloom": {},
    "falcon": {},
    "gemma": {},
    "gemma2": {"sliding_window": 16},
    "gemma3_text": {"sliding_window": 16},
    "gpt2": {},
    "gpt_neox": {},
    "gpt_oss": {"sliding_window": 16},
    "llama": {},
    "mistral": {"sliding_window": 16},
    "mixtral": {},
    "opt": {},
    "qwen2": {},
    "qwen3": {},
}
REFUSED = {
    "lfm2": "its layers keep more than keys and values",
    "mamba": "its class has its own method prepare_inputs_for_generation",
    "phi3": "its class has its own method prepare_inputs_for_generation",
}
QUESTIONS = [item["question"] for item in _world.gsm8k_items(40, 9)]


def prompts(count: int, *, shared: bool = False) -> list[str]:
    """Return prompts of uneven lengths, with the same or with other examples before each question."""
    rnd = random.Random(count)
    texts = []
    for number in range(count):
        examples = QUESTIONS[:2] if shared else rnd.sample(QUESTIONS, rnd.randint(0, 2))
        texts.append("".join(f"{example[:30]}\n" for example in examples) + QUESTIONS[number][: rnd.randint(5, 50)])
    return texts


def requests(texts: list[str], **arguments) -> list[Instance]:
    return [
        Instance("generate_until", {}, (text, dict(arguments)), number, ("gsm8k", number, 1))
        for number, text in enumerate(texts)
    ]


def load(kind: type, folder: Path, **arguments):
    return kind(**{"pretrained": str(folder), "device": "cpu", "dtype": "float32", "batch_size": 3, **arguments})


def both(folder: Path, **arguments) -> tuple[HFLM, SharedPrefixLM]:
    return load(HFLM, folder, **arguments), load(SharedPrefixLM, folder, **arguments)


def generate(lm, texts: list[str], **arguments) -> list[str]:
    return lm.generate_until(requests(texts, **{"max_gen_toks": 24, **arguments}), disable_tqdm=True)


def pieces(texts: list[str], start: int, size: int, count: int) -> list[str]:
    """Return parts of generated texts, to stop at: each reads the same whatever comes before and after it."""
    found = [text[start : start + size] for text in texts if len(text) >= start + size]
    return [piece for piece in dict.fromkeys(found) if piece.isascii() and piece.isprintable()][:count]


@contextmanager
def passes(lm) -> Iterator[list[torch.Tensor]]:
    """Record the token ids of each forward pass."""
    seen: list[torch.Tensor] = []
    hook = lm.model.register_forward_hook(
        lambda _module, _inputs, named, _output: seen.append(named["input_ids"]), with_kwargs=True
    )
    try:
        yield seen
    finally:
        hook.remove()


def steps(seen: list[torch.Tensor]) -> list[int]:
    """Return the number of rows of each step that appends one token."""
    return [len(tokens) for tokens in seen if tokens.shape[1] == 1]


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return families.save(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture
def never_here(monkeypatch) -> None:
    """Fail where this package would generate."""
    monkeypatch.setattr(generation, "decode", lambda *args, **options: pytest.fail("decoded here"))


# ---------------------------------------------------------------------------------------------------- the same texts


@pytest.mark.parametrize("family", FAMILIES)
def test_the_texts_of_each_family_are_those_of_lm_eval(family, tmp_path):
    theirs, ours = both(families.save(tmp_path / "model", family, **FAMILIES[family]))
    assert ours.greedy_refusal is None
    for shared in (False, True):
        texts = prompts(14, shared=shared)
        stops = pieces(generate(theirs, texts), 4, 1, 3)
        assert stops
        with passes(theirs) as plain, passes(ours) as few:
            assert generate(ours, texts, until=stops) == generate(theirs, texts, until=stops)
        assert sum(steps(few)) < sum(steps(plain))
        assert len(steps(few)) < len(steps(plain))


@pytest.mark.parametrize("batch_size", [1, 2, 5, 16])
def test_the_texts_do_not_depend_on_the_batch_size(llama, batch_size):
    theirs, ours = both(llama, batch_size=batch_size)
    texts = prompts(14)
    stops = pieces(generate(theirs, texts), 3, 2, 4)
    expected = generate(theirs, texts, until=stops)
    assert generate(ours, texts, until=stops) == expected
    assert len({len(text) for text in expected}) > 3


def test_the_buffers_grow_while_rows_join_and_leave(llama, monkeypatch):
    theirs, ours = both(llama, batch_size=4)
    texts = prompts(14)
    stops = pieces(generate(theirs, texts, max_gen_toks=60), 12, 1, 4)
    expected = generate(theirs, texts, until=stops, max_gen_toks=60)
    monkeypatch.setattr(rows, "_GROWTH", 2)
    assert generate(ours, texts, until=stops, max_gen_toks=60) == expected
    monkeypatch.setattr(decoding, "_PASS", 1)
    assert generate(ours, texts, until=stops, max_gen_toks=60) == expected


def test_a_stop_string_may_begin_and_end_within_tokens(llama):
    theirs, ours = both(llama)
    texts = prompts(14)
    free = generate(theirs, texts)
    tokens = {theirs.tok_decode([token]) for token in range(len(theirs.tokenizer))}
    stops = [piece for size in (2, 3) for piece in pieces(free, 2, size, 9) if piece not in tokens]
    assert stops
    for stop in stops:
        expected = generate(theirs, texts, until=[stop])
        assert expected != free
        assert generate(ours, texts, until=[stop]) == expected


def test_a_stop_string_in_the_prompt_does_not_end_the_answer(llama):
    theirs, ours = both(llama)
    texts = prompts(7)
    stops = [text[-3:] for text in texts]
    expected = generate(theirs, texts, until=stops)
    assert all(len(ours.tok_encode(text)) > 4 for text in expected)
    assert generate(ours, texts, until=stops) == expected


def test_an_answer_may_be_empty(llama):
    theirs, ours = both(llama)
    texts = prompts(14)
    stops = pieces(generate(theirs, texts), 0, 1, 4)
    expected = generate(theirs, texts, until=stops)
    assert 0 < expected.count("") < len(texts)
    assert generate(ours, texts, until=stops) == expected


@pytest.mark.parametrize("most", [1, 2, 9])
def test_an_answer_has_at_most_max_gen_toks_tokens(llama, most):
    theirs, ours = both(llama)
    texts = prompts(7)
    assert ours.greedy_refusal is None
    with passes(ours) as seen:
        assert generate(ours, texts, max_gen_toks=most) == generate(theirs, texts, max_gen_toks=most)
    assert len(steps(seen)) == 3 * (most - 1)


def test_prompts_longer_than_the_context_are_cut_as_lm_eval_cuts_them(llama):
    for arguments in ({}, {"truncation": True}, {"max_length": 40}):
        theirs, ours = both(llama, **arguments)
        texts = [*prompts(4), *(text * 12 for text in prompts(3))]
        assert ours.greedy_refusal is None
        with passes(ours) as seen:
            assert generate(ours, texts) == generate(theirs, texts)
        assert max(tokens.shape[1] for tokens in seen) == theirs.max_length - 24


def test_all_end_tokens_of_the_generation_configuration_end_an_answer(llama):
    theirs, ours = both(llama)
    texts = prompts(14)
    ends = [theirs.tok_encode(text)[5] for text in generate(theirs, texts)[::4]]
    for lm in (theirs, ours):
        lm.model.generation_config.eos_token_id = [2, *ends]
    expected = generate(theirs, texts)
    assert len({len(text) for text in expected}) > 3
    with passes(ours) as seen:
        assert generate(ours, texts) == expected
    assert sum(steps(seen)) < 14 * 23


def test_a_prompt_that_begins_with_the_beginning_of_sequence_token(llama):
    theirs, ours = both(llama, add_bos_token=True)
    texts = [f"{'<s>' * (number % 2)}{text}" for number, text in enumerate(prompts(8))]
    assert generate(ours, texts) == generate(theirs, texts)


def test_a_common_beginning_is_computed_once(llama):
    ours = load(SharedPrefixLM, llama, batch_size=4)
    texts = prompts(8, shared=True)
    lengths = [len(ours.tok_encode(text)) for text in texts]
    common = len(rows.common_prefix([ours.tok_encode(text) for text in texts]))
    assert common > 16
    assert ours.greedy_refusal is None
    with passes(ours) as seen:
        generate(ours, texts, max_gen_toks=1)
    assert seen[-3].tolist() == [ours.tok_encode(texts[0])[:common]]
    assert sum(tokens.shape[1] for tokens in seen[-2:]) < 2 * (max(lengths) - common) + 1


# ------------------------------------------------------------------------------------------------- lm-eval's own code


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_whose_cache_is_another_is_left_to_lm_eval(family, tmp_path, never_here):
    theirs, ours = both(families.save(tmp_path / "model", family))
    assert ours.greedy_refusal == REFUSED[family]
    assert generate(ours, prompts(4)) == generate(theirs, prompts(4))


def test_a_model_with_wrong_keys_and_values_is_left_to_lm_eval(llama, never_here, monkeypatch):
    ours = load(SharedPrefixLM, llama)
    expected = generate(load(HFLM, llama), prompts(4))
    update = rows._SlotLayer.update
    monkeypatch.setattr(
        rows._SlotLayer, "update", lambda self, key, value, *rest, **more: update(self, key * 1.05, value)
    )
    assert "standard deviations" in ours.greedy_refusal
    assert generate(ours, prompts(4)) == expected


def test_a_model_that_takes_no_cache_of_ours_is_left_to_lm_eval(llama, never_here, monkeypatch):
    ours = load(SharedPrefixLM, llama)
    monkeypatch.delattr(rows._SlotLayer, "update")
    monkeypatch.setattr(rows._SlotLayer, "get_seq_length", lambda self: 3)
    assert ours.greedy_refusal.startswith("it cannot continue rows of different lengths (RuntimeError: ")
    assert generate(ours, prompts(4)) == generate(load(HFLM, llama), prompts(4))


@pytest.mark.parametrize(
    "setting",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {"suppress_tokens": [70]},
        {"min_new_tokens": 1},
        {"forced_eos_token_id": 2},
        {"max_new_tokens": 5},
        {"num_beams": 2},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_a_generation_configuration_that_changes_the_decoding_is_left_to_lm_eval(llama, never_here, setting):
    theirs, ours = both(llama)
    for lm in (theirs, ours):
        lm.model.generation_config.update(**setting)
    assert (
        ours.greedy_refusal
        == f"its generation configuration has {next(iter(setting))} = {next(iter(setting.values()))!r}"
    )
    assert generate(ours, prompts(4)) == generate(theirs, prompts(4))


def test_a_generation_configuration_that_changes_nothing_is_none_of_these(llama):
    ours = load(SharedPrefixLM, llama)
    ours.model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.9, repetition_penalty=1.0, num_beams=1)
    assert ours.greedy_refusal is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"do_sample": True, "temperature": 0.7},
        {"num_beams": 2},
        {"repetition_penalty": 1.2},
        {"max_length": 90},
        {"until": ["a", ""]},
        {"until": ["xaby", "ab"]},
        {"until": ["by", "ab"]},
        {"until": ["\ufffd"]},
    ],
    ids=str,
)
def test_requests_that_are_not_plain_greedy_decoding_are_left_to_lm_eval(llama, never_here, arguments):
    theirs, ours = both(llama)
    torch.manual_seed(3)
    expected = generate(theirs, prompts(4), **arguments)
    torch.manual_seed(3)
    assert generate(ours, prompts(4), **arguments) == expected


def test_lm_eval_refuses_an_answer_longer_than_the_context(llama):
    ours = load(SharedPrefixLM, llama, max_length=20)
    with pytest.raises(AssertionError, match="must be less than model's maximum sequence length"):
        generate(ours, prompts(4))


def test_thinking_is_left_to_lm_eval(llama, never_here):
    theirs, ours = both(llama, think_end_token="a")
    assert generate(ours, prompts(4)) == generate(theirs, prompts(4))


def test_a_list_may_have_both_kinds_of_requests(llama):
    theirs, ours = both(llama)
    mixed = [
        Instance("generate_until", {}, (text, {"max_gen_toks": 9, **more}), number)
        for number, text in enumerate(prompts(9))
        for more in [{"num_beams": 2} if number % 3 else {}]
    ]
    assert ours.generate_until(mixed) == theirs.generate_until(mixed)


def test_an_empty_prompt_is_left_to_lm_eval(llama):
    theirs, ours = both(llama)
    texts = [*prompts(5), ""]  # not alone in its batch, where lm-eval fails
    assert generate(ours, texts) == generate(theirs, texts)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_stop_string_that_only_the_batch_ends_at_is_left_to_lm_eval(llama, batch_size, monkeypatch):
    """The model generates `</s>`, `generate` does not end there, and lm-eval ends a batch once all of it has one."""
    theirs, ours = both(llama, batch_size=batch_size)
    texts = prompts(10)
    free = generate(theirs, texts)
    copied = theirs.tok_encode(free[0])[3]
    for lm in (theirs, ours):
        lm.model.generation_config.eos_token_id = None
        with torch.no_grad():
            lm.model.lm_head.weight[2] = lm.model.lm_head.weight[copied] * 1.01
    expected = generate(theirs, texts)
    answered: list[str] = []
    monkeypatch.setattr(ours.cache_hook, "add_partial", lambda name, request, answer: answered.append(request[0]))
    call, batches = ours._model_generate, []
    monkeypatch.setattr(ours, "_model_generate", lambda **named: batches.append(1) or call(**named))
    assert generate(ours, texts) == expected
    assert 0 < len(batches) < 10 / batch_size
    assert sorted(answered) == sorted(texts)


# --------------------------------------------------------------------------------- interruptions, progress, damage


def attach(lm, folder: Path, texts: list[str], seen: list | None = None, **arguments) -> list[str]:
    """Answer requests through a request cache that commits whenever it may."""
    report = (lambda *said: None) if seen is None else lambda *said: seen.append(said)
    made = requests(texts, **{"max_gen_toks": 24, **arguments})
    with closing(RequestCache(folder / "answers.db", interval=0)) as cache:
        interception = Interception("gsm8k", Progress(report, {"gsm8k": len(texts)}), cache, lambda: made)
        with interception.attached(lm):
            return lm.generate_until(made)


@pytest.mark.parametrize("special", [False, True], ids=["here", "partly-lm-eval"])
@pytest.mark.parametrize("stop", [1, 9, 10, 12, 13, 20, 26])
def test_an_interrupted_list_resumes_with_the_same_passes(llama, tmp_path, monkeypatch, stop, special):
    monkeypatch.setattr(generation, "_WINDOW", 4)
    ours = load(SharedPrefixLM, llama, batch_size=3)
    texts = prompts(26 - 1, shared=True) + prompts(1)
    if special:
        copied = ours.tok_encode(generate(ours, texts)[0])[3]
        ours.model.generation_config.eos_token_id = None
        with torch.no_grad():
            ours.model.lm_head.weight[2] = ours.model.lm_head.weight[copied] * 1.01
    stops = pieces(generate(ours, texts), 5, 1, 2)
    with passes(ours) as whole:
        uncut = attach(ours, tmp_path / "uncut", texts, until=stops)
    with _world.interrupted(stop), pytest.raises(KeyboardInterrupt):
        attach(ours, tmp_path / "cut", texts, until=stops)
    with passes(ours) as rest:
        again = attach(ours, tmp_path / "cut", texts, until=stops)
    assert again == uncut
    assert [tokens.tolist() for tokens in rest] == [tokens.tolist() for tokens in whole][len(whole) - len(rest) :]
    assert (len(rest) < len(whole)) == (stop > 12)


def test_progress_advances_within_a_window(llama, tmp_path, monkeypatch):
    monkeypatch.setattr("time.monotonic", iter(range(10_000)).__next__)
    seen: list[tuple[str, int, int]] = []
    attach(load(SharedPrefixLM, llama), tmp_path, prompts(12), seen)
    assert [done for _, done, _ in seen[1:-1]] == list(range(1, 13))


def test_logits_that_are_not_numbers_are_refused(llama, tmp_path):
    ours = load(SharedPrefixLM, llama)
    texts = prompts(12)
    with torch.no_grad():
        ours.model.lm_head.weight[ours.tok_encode(generate(ours, texts)[0])[6]] = float("nan")
    with pytest.raises(EvaluationError, match="task 'gsm8k': the model generates from logits that are not numbers"):
        attach(ours, tmp_path, texts)
