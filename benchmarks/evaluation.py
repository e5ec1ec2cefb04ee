"""Answers to benchmark items by lm-eval's own `hf` class and by ours: forward tokens, wall time and differences.

Both classes have the same checkpoint loaded and answer the same requests in turn, task by task. Forward tokens are all
tokens that enter the model, with padding. The wall time includes tokenization, and not building the prompts.

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --model FOLDER --data ../shared/benchmarks
    python benchmarks/evaluation.py --synthetic /path/with/room --layers 32 --device cuda --data ../shared/benchmarks

Without `--model` the items and the model are the nursery's, of the demo's size and hardly trained. With `--synthetic`
the model has the shape of Mistral-7B and random weights; its tokenizer is the nursery's, whose prompts are longer.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from synthetic import Shape, make_family

from evolve.engines.evaluation.catalog import Catalog
from evolve.engines.evaluation.taskfiles import plan_tasks
from evolve.engines.evaluation.tasks import TaskLoader
from evolve.engines.protocols import TaskSpec
from evolve.nursery import Family, NurseryRecipe, build

Figures = dict[str, Any]

SHOTS = {"truthfulqa_mc2": 0, "winogrande": 5, "gsm8k": 5}
METRICS = {"truthfulqa_mc2": "acc,none", "winogrande": "acc,none", "gsm8k": "exact_match,strict-match"}
LIKELIHOOD = ("truthfulqa_mc2", "winogrande")
SEED = 1234


def hardly_trained(folder: Path) -> Family:
    """Build the nursery's family in its usual size, with a few steps of training."""
    return build(folder, recipe=NurseryRecipe(base_steps=2, specialist_steps=(1, 1, 1), warm_up=1))


def requests_of(spec: TaskSpec, share: float) -> list[Any]:
    """Return lm-eval's requests for a share of a task's items."""
    with tempfile.TemporaryDirectory() as folder:
        (plan,) = plan_tasks([spec], Catalog())
        (task,) = TaskLoader(Path(folder) / "task", plan, {}).build().values()
        task.set_fewshot_seed(seed=SEED)
        task.build_all_requests(limit=max(1, round(len(task.eval_docs) * share)))
    return list(task.instances)


@contextmanager
def counted(model: Any) -> Iterator[list[int]]:
    """Count the tokens that enter a model."""
    count = [0]

    def look(_module: Any, positional: Any, named: Any) -> None:
        count[0] += (positional[0] if positional else named["input_ids"]).numel()

    handle = model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield count
    finally:
        handle.remove()


def answer(lm: Any, requests: Sequence[Any]) -> tuple[list[Any], Figures]:
    """Answer the requests of one task; return the answers, forward tokens and seconds."""
    method = getattr(lm, requests[0].request_type)
    with counted(lm.model) as tokens:
        began = time.perf_counter()
        answers = method(requests)
        seconds = time.perf_counter() - began
    return answers, {"tokens": tokens[0], "seconds": seconds}


def compare(plain: Any, ours: Any, requests: Sequence[Any], items: int) -> Figures:
    """Let both classes answer the requests of one task."""
    expected, before = answer(plain, requests)
    found, after = answer(ours, requests)
    figures = {"items": items, "requests": len(requests), "plain": before, "ours": after}
    if requests[0].request_type == "loglikelihood":
        pairs = list(zip(found, expected, strict=True))
        figures["largest difference"] = max(abs(one[0] - other[0]) for one, other in pairs)
        figures["changed flags"] = sum(one[1] != other[1] for one, other in pairs)
        figures["changed items"] = changed_items(requests, found, expected)
    else:
        figures["changed items"] = sum(one != other for one, other in zip(found, expected, strict=True))
    return figures


def changed_items(requests: Sequence[Any], found: Sequence[Any], expected: Sequence[Any]) -> int:
    """Return how many items have another likeliest choice."""
    best: list[dict[int, tuple[float, int]]] = [{}, {}]
    for number, request in enumerate(requests):
        for answers, chosen in zip((found, expected), best, strict=True):
            value = answers[number][0]
            chosen[request.doc_id] = max(chosen.get(request.doc_id, (value, number)), (value, number))
    return sum(best[0][item][1] != best[1][item][1] for item in best[0])


def ratios(tasks: Sequence[Figures]) -> Figures:
    """Return how many times more tokens and seconds lm-eval's class needs for these tasks together."""
    return {
        what: sum(task["plain"][what] for task in tasks) / sum(task["ours"][what] for task in tasks)
        for what in ("tokens", "seconds")
    }


def show(name: str, figures: Figures) -> None:
    """Print the figures of one task."""
    ratio = ratios([figures])
    print(
        f"  {name:15} {figures['items']:5} items {figures['requests']:6} requests"
        f"  tokens {figures['plain']['tokens']:9,} : {figures['ours']['tokens']:9,} ({ratio['tokens']:.1f}x)"
        f"  wall {figures['plain']['seconds']:7.1f} : {figures['ours']['seconds']:7.1f} s ({ratio['seconds']:.1f}x)"
    )
    if "largest difference" in figures:
        print(f"  {'':15} largest difference {figures['largest difference']:.2g}, {figures['changed flags']} flags and")
    print(f"  {'':15} {figures['changed items']} items changed", flush=True)


def models(folder: Path, options: argparse.Namespace) -> tuple[Any, Any]:
    """Load the checkpoint in both classes."""
    from lm_eval.models.huggingface import HFLM

    from evolve.engines.evaluation.hf.model import SharedPrefixLM

    arguments = {"device": options.device, "dtype": options.dtype, "batch_size": options.batch_size}
    if options.synthetic is not None:
        arguments["tokenizer"] = str(options.tokenizer)
    plain, ours = HFLM(str(folder), **arguments), SharedPrefixLM(str(folder), **arguments)
    print(f"prefixes are {'shared' if ours.not_shared is None else f'not shared: {ours.not_shared}'}")
    return plain, ours


def turns(options: argparse.Namespace, place: Path) -> list[dict[str, Figures]]:
    """Measure all tasks in turn; return the figures by task for each turn."""
    folder, data = (
        options.model,
        {task: options.data / task.removesuffix("_mc2") for task in SHOTS} if options.data else {},
    )
    if folder is None or not data:
        family = hardly_trained(place)
        folder, data = folder or family.base, data or family.datasets
        options.tokenizer = family.base
    if options.synthetic is not None:
        folder = make_family(options.synthetic.resolve(), Shape(layers=options.layers))[0]
    arguments = {"max_gen_toks": options.max_gen_toks}
    specs = [
        TaskSpec(
            task, METRICS[task], SHOTS[task], dataset=data[task], generation_kwargs=arguments if task == "gsm8k" else {}
        )
        for task in options.tasks
    ]
    requests = {spec.task: requests_of(spec, options.share) for spec in specs}
    plain, ours = models(folder, options)
    found = []
    for number in range(1, options.turns + 1):
        print(f"turn {number}", flush=True)
        found.append({})
        for task, instances in requests.items():
            items = len({instance.doc_id for instance in instances})
            found[-1][task] = compare(plain, ours, instances, items)
            show(task, found[-1][task])
    return found


def main() -> None:
    """Print the figures of each task, and the ratios of all log-likelihood tasks together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a checkpoint; by default the nursery's base")
    parser.add_argument(
        "--data", type=Path, help="folder with winogrande, truthfulqa and gsm8k; by default the nursery's"
    )
    parser.add_argument(
        "--synthetic", type=Path, help="folder for a model of the Mistral-7B shape, kept for the next time"
    )
    parser.add_argument("--layers", type=int, default=32, help="its layers")
    parser.add_argument("--tasks", nargs="+", default=list(LIKELIHOOD), choices=SHOTS)
    parser.add_argument("--share", type=float, default=0.03, help="share of each task's items, the first ones")
    parser.add_argument("--max-gen-toks", type=int, default=64, help="most tokens of a generated answer")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as place:
        found = turns(options, Path(place))
    together = [ratios([turn[task] for task in LIKELIHOOD if task in turn]) for turn in found]
    for number, ratio in enumerate(together, 1):
        print(
            f"turn {number}, log-likelihood tasks together: {ratio['tokens']:.1f}x tokens, {ratio['seconds']:.1f}x wall"
        )
    if options.json:
        options.json.write_text(json.dumps({"turns": found, "together": together}, indent=2) + "\n")


if __name__ == "__main__":
    main()
