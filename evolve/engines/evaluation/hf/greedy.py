"""Which requests and which models plain greedy decoding can answer as transformers' `generate` does."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch

from evolve.engines.evaluation.hf.probe import PROBE_FAILURES
from evolve.engines.evaluation.hf.rows import GeneratingRows

__all__ = ["GreedyOptions", "greedy_options", "refusal"]

_IGNORED = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    *("max_length", "early_stopping", "length_penalty", "use_cache", "disable_compile", "output_attentions"),
    *("output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate", "renormalize_logits"),
    *("transformers_version", "_from_model_config"),
}
"""Entries of a generation configuration that lm-eval overrides, or that do not change greedy decoding."""

_NEUTRAL = {
    "cache_implementation": "hybrid",
    "diversity_penalty": 0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1,
    "guidance_scale": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1,
}
"""Values of other entries that change nothing, apart from None and False."""

_TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2}
"""Largest root mean square of the differences of logits, in standard deviations of the logits, by dtype."""

_LEAST_CONTEXT = 32
"""Least context in which the comparison of logits has room."""

_TEXT = (
    "Question: A farmer has 12 cows and 30 sheep. He sells 5 of the cows and buys twice as many sheep as he sold cows. "
    "How many animals does he have now? Answer: He has 12 - 5 = 7 cows and 30 + 10 = 40 sheep, so 47 animals."
)


@dataclass(frozen=True)
class GreedyOptions:
    """Options of a request.

    Attributes:
        stops: Stop strings in lm-eval's order, with the end-of-sequence token.
        most: The most tokens of an answer.
    """

    stops: tuple[str, ...]
    most: int


def greedy_options(lm: Any, arguments: Any) -> GreedyOptions | None:
    """Return the options of a request with these generation arguments; None if it is not plain greedy decoding.

    Also None where the text depends on when lm-eval ends the batch.
    """
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

    if not isinstance(arguments, Mapping):
        return None
    found = dict(normalize_gen_kwargs(dict(arguments), lm.max_gen_toks))
    stops = handle_stop_sequences(found.pop("until"), eos=lm.tok_decode(lm.eot_token_id, skip_special_tokens=False))
    most = found.pop("max_gen_toks")
    if found.pop("do_sample") is not False or found.pop("temperature", 0.0) != 0.0 or found:
        return None
    if any(not stop or "\ufffd" in stop for stop in stops) or any(_overtakes(*pair) for pair in combinations(stops, 2)):
        return None
    return GreedyOptions(tuple(stops), most) if 0 < most < lm.max_length else None


def _overtakes(earlier: str, later: str) -> bool:
    """Return whether a text that ends with the second stop string can go on so that the first one cuts it elsewhere.

    lm-eval cuts at the first string before it looks for the second one, in all that was generated.
    """
    return later in earlier[1:-1] or any(
        earlier.startswith(later[start:]) and len(earlier) > len(later) - start for start in range(1, len(later))
    )


def refusal(lm: Any) -> str | None:
    """Return why a model cannot decode here; None if it can."""
    return next((reason for check in (_class, _settings, _keeps, _difference) if (reason := check(lm))), None)


def _class(lm: Any) -> str | None:
    """Return a reason in the class of the model."""
    from transformers import GenerationMixin, PreTrainedModel

    if lm.backend != "causal" or not isinstance(lm.model, PreTrainedModel):
        return "it is not a causal model of transformers"
    for method in ("generate", "prepare_inputs_for_generation"):
        if getattr(type(lm.model), method) is not getattr(GenerationMixin, method):
            return f"its class has its own method {method}"
    if "logits_to_keep" not in inspect.signature(lm.model.forward).parameters:
        return "its class computes the logits of all tokens"
    return None


def _settings(lm: Any) -> str | None:
    """Return a reason in the arguments of lm-eval's class, the tokenizer or the generation configuration."""
    if lm.think_end_token is not None or lm.mixed_precision_dtype is not None:
        return "its model_args have think_end_token or mixed_precision_dtype"
    if lm.eot_token_id is None or lm.tok_decode([lm.tokenizer.pad_token_id]):
        return "its tokenizer has no end-of-sequence token, or its padding is text"
    if lm.max_length < _LEAST_CONTEXT:
        return "its context is too short"
    for name, value in lm.model.generation_config.to_dict().items():
        if name not in _IGNORED and value is not None and value is not False and value != _NEUTRAL.get(name):
            return f"its generation configuration has {name} = {value!r}"
    return None


def _keeps(lm: Any) -> str | None:
    """Return a reason in what the layers keep, or in the positions."""
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    layers = DynamicCache(config=lm.model.config).layers
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        return "its layers keep more than keys and values"
    if any("dynamic" in kind or kind == "longrope" for kind in _rotary(lm.model.config)):
        return "its positions depend on the longest row of a batch"
    return None


def _difference(lm: Any) -> str | None:
    """Return a reason if cached keys and values give other logits than plain passes."""
    try:
        ours, plain = _logits(lm)
    except torch.OutOfMemoryError:
        raise
    except PROBE_FAILURES as error:
        return f"it cannot continue rows of different lengths ({type(error).__name__}: {error})"
    limit = _TOLERANCE.get(lm.model.dtype, 0.1)
    difference = ((ours - plain).square().mean().sqrt() / plain.std()).item()
    # A comparison with NaN is false: the answers will say that the model is damaged.
    if difference > limit:
        return f"its logits differ by {difference:.2g} standard deviations with and without cached keys and values"
    return None


def _rotary(config: Any) -> list[str]:
    """Return the kinds of rotary positions in a configuration."""
    found = getattr(config.get_text_config(decoder=True), "rope_parameters", None) or {}
    nested = [found, *(value for value in found.values() if isinstance(value, dict))]
    return [str(parameters.get("rope_type", "default")) for parameters in nested]


def _logits(lm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the last logits of rows that joined and left a batch, and those of a plain pass over each."""
    tokens = lm.tok_encode(_TEXT)
    most = min(48, lm.max_length - 4)
    tokens = (tokens * -(-most // len(tokens)))[:most]
    half = most // 2
    first, second, third = tokens, tokens[:half] + tokens[half + 2 : -6], tokens[:half] + tokens[-5:]
    rows = GeneratingRows(lm.model, lm.device, 2, tokens[:half])
    rows.join([second, first])
    rows.step([tokens[0], tokens[1]])
    rows.leave(0)
    rows.join([third])
    ours = rows.step([tokens[2], tokens[3]])
    plain = []
    for row in ([*first, tokens[1], tokens[2]], [*third, tokens[3]]):
        with torch.no_grad():
            output = lm.model(input_ids=torch.tensor([row], device=lm.device), use_cache=False, logits_to_keep=1)
        plain.append(output.logits[0, -1])
    return ours.float(), torch.stack(plain).float()
