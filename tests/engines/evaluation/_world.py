"""Tiny real checkpoints, invented items in the schemas of the three benchmarks, and calls of the engine."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from evolve.engines.evaluation import evaluate, inspect_tasks
from evolve.engines.evaluation.request_cache import RequestCache
from evolve.engines.protocols import (
    EvaluateJob,
    EvaluateResult,
    InspectTasksJob,
    Report,
    TaskFacts,
    TaskSpec,
    task_folder,
)

NAMES = ("Ann", "Bob", "Cy", "Dee", "Eve", "Fay")
THINGS = ("cup", "lamp", "boat", "drum", "kite")


def winogrande_items(count: int, seed: int) -> list[dict[str, str]]:
    rnd = random.Random(seed)
    items = []
    for _ in range(count):
        first, second = rnd.sample(NAMES, 2)
        thing = rnd.choice(THINGS)
        items.append(
            {
                "sentence": f"{first} sold the {thing} to {second} because _ had no use for a {rnd.choice(THINGS)}.",
                "option1": first,
                "option2": second,
                "answer": rnd.choice("12"),
            }
        )
    return items


def gsm8k_items(count: int, seed: int) -> list[dict[str, str]]:
    rnd = random.Random(seed)
    items = []
    for _ in range(count):
        a, b = rnd.randint(2, 60), rnd.randint(2, 60)
        name, thing = rnd.choice(NAMES), rnd.choice(THINGS)
        items.append(
            {
                "question": f"{name} has {a} {thing}s and buys {b} more. How many {thing}s does {name} have?",
                "answer": f"{name} has {a} + {b} = <<{a}+{b}={a + b}>>{a + b} {thing}s.\n#### {a + b}",
            }
        )
    return items


def truthfulqa_items(count: int, seed: int) -> list[dict[str, object]]:
    rnd = random.Random(seed)
    items: list[dict[str, object]] = []
    for number in range(count):
        thing = rnd.choice(THINGS)
        choices = [f"A {thing} is a {other}" for other in rnd.sample(THINGS, 4)]
        items.append(
            {
                "question": f"What is a {thing} of kind {number}?",
                "mc1_targets": {"choices": choices, "labels": [1, 0, 0, 0]},
                "mc2_targets": {"choices": [*choices, "Nobody knows"], "labels": [1, 1, 0, 0, 0]},
            }
        )
    return items


def write_lines(file: Path, items: list) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")


def make_data(root: Path, count: int = 12) -> Path:
    write_lines(root / "winogrande" / "train.jsonl", winogrande_items(20, 1))
    write_lines(root / "winogrande" / "validation.jsonl", winogrande_items(count, 2))
    write_lines(root / "gsm8k" / "train.jsonl", gsm8k_items(20, 3))
    write_lines(root / "gsm8k" / "test.jsonl", gsm8k_items(count, 4))
    write_lines(root / "truthfulqa" / "validation.jsonl", truthfulqa_items(count, 5))
    return root


def make_model(folder: Path, seed: int = 0) -> Path:
    """Write a Llama of two layers with random weights and a byte-level BPE tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([json.dumps(item) for item in gsm8k_items(50, 0) + winogrande_items(50, 0)], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def three_tasks(data: Path, limit: int | None = None) -> tuple[TaskSpec, ...]:
    return (
        TaskSpec("winogrande", "acc,none", num_fewshot=5, limit=limit, dataset=data / "winogrande"),
        TaskSpec(
            "gsm8k",
            "exact_match,flexible-extract",
            num_fewshot=3,
            limit=limit,
            generation_kwargs={"max_gen_toks": 16},
            dataset=data / "gsm8k",
        ),
        TaskSpec("truthfulqa_mc2", "acc,none", num_fewshot=0, limit=limit, dataset=data / "truthfulqa"),
    )


def job(checkpoint: Path, tasks: tuple[TaskSpec, ...], output: Path, **options) -> EvaluateJob:
    output.mkdir(parents=True, exist_ok=True)
    options = {"batch_size": 4, "seed": 7, "model_args": {"dtype": "float32"}, **options}
    return EvaluateJob(checkpoint=checkpoint, tasks=tasks, output=output, **options)


def silent(words: str, done: int, total: int) -> None:
    pass


def score(
    checkpoint: Path, tasks: tuple[TaskSpec, ...], output: Path, report: Report = silent, **options
) -> EvaluateResult:
    """Evaluate on the CPU; the options are those of the job."""
    return evaluate(job(checkpoint, tasks, output, **options), report, "cpu")


def inspect(*tasks: TaskSpec, **options) -> dict[str, TaskFacts]:
    return inspect_tasks(InspectTasksJob(tasks, **options), silent)


def results_of(output: Path, task: str) -> dict:
    return json.loads((output / task_folder(task) / "results.json").read_text(encoding="utf-8"))


def samples_of(output: Path) -> dict[str, str]:
    """Return the text of each samples file, by its path within an evaluation's output."""
    return {
        str(file.relative_to(output)): file.read_text(encoding="utf-8") for file in output.glob("*/samples_*.jsonl")
    }


def prompts(output: Path, task: str) -> list[dict]:
    """Return the arguments of each sample of a task."""
    lines = samples_of(output)[f"{task}/samples_{task}.jsonl"].splitlines()
    return [json.loads(line)["arguments"] for line in lines]


@contextmanager
def interrupted(stop: int) -> Iterator[list[object]]:
    """Interrupt what runs in this block instead of taking one of its answers; yield the requests answered so far.

    Args:
        stop: Number of the answer, from 1.
    """
    answered: list[object] = []
    add = RequestCache.add

    def cut(self: RequestCache, request: str, answer: object) -> None:
        answered.append(request)
        if len(answered) == stop:
            raise KeyboardInterrupt
        add(self, request, answer)

    with mock.patch.object(RequestCache, "add", cut):
        yield answered


def request_caches(folder: Path, tasks: tuple[TaskSpec, ...]) -> dict[str, Path]:
    return {spec.task: folder / f"requests-{spec.task}" for spec in tasks}


def database(folder: Path, task: str) -> Path:
    """Return the file of a task's request cache."""
    return folder / f"requests-{task}_rank0.db"
