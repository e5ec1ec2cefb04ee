"""Measure what an evaluation costs beside the forward pass: prompts, token ids, sorting, results.

The items are invented, in the schema of HellaSwag: four choices, and shots from the training split. The task is
lm-eval's own `hellaswag`. The model answers at once, so that all time is that of the work around it:

- *as lm-eval*: every model builds its prompts and encodes them, as lm-eval does by itself;
- *first model*: builds and encodes once, and writes `.prompts`;
- *next model*: in the same process;
- *new process*: finds the files.

    python benchmarks/prompts.py
    python benchmarks/prompts.py --items 10000 --tokenizer /path/of/a/model
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ha", "ke", "li", "mo", "nu", "pa", "re", "si", "to", "vu")
KINDS = ("as lm-eval", "first model", "next model", "new process")


def write_items(folder: Path, items: int, examples: int) -> None:
    """Write invented items of about the length of HellaSwag's."""
    rnd = random.Random(0)
    words = ["".join(rnd.choices(SYLLABLES, k=rnd.randint(1, 4))) for _ in range(5000)]

    def text(count: int) -> str:
        return " ".join(rnd.choices(words, k=count))

    for split, count in (("train", examples), ("validation", items)):
        with (folder / f"{split}.jsonl").open("w") as file:
            for number in range(count):
                row = {
                    "ind": number,
                    "activity_label": text(2).capitalize(),
                    "ctx_a": f"{text(22)}.",
                    "ctx_b": text(3),
                    "endings": [f"{text(16)}." for _ in range(4)],
                    "label": str(rnd.randrange(4)),
                }
                file.write(json.dumps(row) + "\n")


def write_model(folder: Path, data: Path, tokenizer: Path | None) -> None:
    """Write a model of almost no weights, with the tokenizer of a folder or one trained on the items."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    if tokenizer is None:
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=32000, special_tokens=["<s>", "</s>"], show_progress=False)
        bpe.train([str(data / "train.jsonl")], trainer)
        own = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    else:
        own = AutoTokenizer.from_pretrained(tokenizer)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(own), max_position_embeddings=8192, **sizes)).save_pretrained(folder)
    own.save_pretrained(folder)


class Times(dict[str, float]):
    """Seconds by part of the work."""

    def of(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that adds its wall time to a part."""

        def run(*positional: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*positional, **named)
            finally:
                self[part] = self.get(part, 0.0) + time.perf_counter() - began

        return run


@contextmanager
def timed(times: Times) -> Iterator[None]:
    """Time the parts of the evaluations in this block, whose models answer at once."""
    from lm_eval import evaluator
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.utils import Collator

    def answer(lm: Any, requests: Any, **_: Any) -> Any:
        sort = times.of("sorting", Collator)
        order = sort(requests, sort_fn=lambda one: (-len(one[1] + one[2]), tuple(one[1] + one[2])))
        batches = times.of("sorting", lambda: [one for batch in order.get_batched(n=16) for one in batch])()
        found = [(-1.0 - hash(tuple(continuation)) % 97, False) for _, _, continuation in batches]
        for (texts, *_), value in zip(batches, found, strict=True):
            lm.cache_hook.add_partial("loglikelihood", texts, value)
        return order.get_original(found)

    evaluate, loglikelihood = evaluator.evaluate, HFLM.loglikelihood

    def evaluated(*positional: Any, **named: Any) -> Any:
        times["prompts"] = -time.perf_counter()
        return evaluate(*positional, **named)

    def answered(*positional: Any, **named: Any) -> Any:
        times["prompts"] += time.perf_counter()
        return times.of("loglikelihood", loglikelihood)(*positional, **named)

    results = times.of("results", ConfigurableTask.process_results)
    with (
        mock.patch.object(evaluator, "evaluate", evaluated),
        mock.patch.object(HFLM, "loglikelihood", answered),
        mock.patch.object(HFLM, "_loglikelihood_tokens", times.of("answers", answer)),
        mock.patch.object(ConfigurableTask, "process_results", results),
    ):
        yield


def as_lm_eval() -> Any:
    """Return a context in which nothing is kept."""
    from evolve.engines.evaluation import prompts, tokens

    stack = ExitStack()
    for module, name in ((prompts, "kept_prompts"), (tokens, "kept_tokens")):
        stack.enter_context(mock.patch.object(module, name, return_value=nullcontext({})))
    return stack


def measure(place: Path, shots: int, *, kept: bool, turns: int) -> list[dict[str, float]]:
    """Return the seconds of some evaluations in this process, and a hash of their samples."""
    from evolve.engines.evaluation import evaluate
    from evolve.engines.protocols import EvaluateJob, TaskSpec
    from evolve.run.prompts import share_prompts

    spec = TaskSpec("hellaswag", "acc_norm,none", num_fewshot=shots, dataset=place / "data")

    def score(spec: TaskSpec, prompts: Mapping[str, Path]) -> dict[str, Any]:
        times = Times()
        with tempfile.TemporaryDirectory(dir=place) as output, timed(times):
            job = EvaluateJob(place / "model", (spec,), Path(output), prompts=prompts, prefix_sharing=False)
            times.of("whole", evaluate)(job, lambda *_: None, "cpu")
            for task, folder in prompts.items():
                share_prompts(Path(output) / task, folder)
            samples = next(Path(output).glob("*/samples_*.jsonl")).read_bytes()
        return {**_parts(times), "samples": hash_of(samples)}

    with nullcontext() if kept else as_lm_eval():
        score(spec.shortened(1), {})  # imports lm-eval and reads the data
        return [score(spec, {spec.task: place / ".prompts" / "key"}) for _ in range(turns)]


def _parts(times: Times) -> dict[str, float]:
    token_ids = times["loglikelihood"] - times["answers"]
    listed = {"prompts": times["prompts"], "token ids": token_ids, "sorting": times["sorting"]}
    listed["results"] = times["results"]
    return {**listed, "other": times["whole"] - sum(listed.values()), "whole": times["whole"]}


def hash_of(data: bytes) -> str:
    """Return a short hash."""
    import hashlib

    return hashlib.sha256(data).hexdigest()[:16]


def in_process(place: Path, shots: int, *, kept: bool, turns: int) -> list[dict[str, float]]:
    """Measure in a new process."""
    command = [sys.executable, __file__, "--measure", str(place), "--shots", str(shots), "--turns", str(turns)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")])
    environment["HF_DATASETS_CACHE"] = str(place / "datasets")
    done = subprocess.run(
        [*command, *(["--kept"] if kept else [])], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def compare(place: Path, shots: int) -> dict[str, dict[str, float]]:
    """Return the seconds by kind; the samples of all are equal."""
    (plain,) = in_process(place, shots, kept=False, turns=1)
    first, following = in_process(place, shots, kept=True, turns=2)
    (new,) = in_process(place, shots, kept=True, turns=1)
    found = dict(zip(KINDS, (plain, first, following, new), strict=True))
    assert len({figures.pop("samples") for figures in found.values()}) == 1, "the samples differ"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=500, help="10000 is HellaSwag")
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--tokenizer", type=Path, help="folder of a model with a tokenizer; by default one is trained")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kept", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--turns", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.shots, kept=options.kept, turns=options.turns)))
        return
    with tempfile.TemporaryDirectory(prefix="evolve-prompts-") as folder:
        place = Path(folder)
        (place / "data").mkdir()
        write_items(place / "data", options.items, examples=2000)
        write_model(place / "model", place / "data", options.tokenizer)
        found = compare(place, options.shots)
        size = sum(file.stat().st_size for file in (place / ".prompts" / "key").iterdir())
    for kind, figures in found.items():
        shown = ", ".join(f"{part} {seconds:.2f}" for part, seconds in figures.items() if part != "whole")
        ratio = found["as lm-eval"]["whole"] / figures["whole"]
        print(f"{kind:12} {figures['whole']:8.2f} s ({ratio:.1f}x): {shown}")
    print(
        f"{options.items} items, {options.shots} shots: the kept files have {size / 1e6:.1f} MB; the samples are equal"
    )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
