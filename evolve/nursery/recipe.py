"""The recipe of a family: every size and every number of steps."""

from __future__ import annotations

from dataclasses import dataclass

RECIPE_VERSION = 1
"""Version of the building code: raised when the same recipe and seed give another family than before."""

SPECIALISTS = ("coreference", "arithmetic", "facts")
"""The three specialists, in the order they are trained."""


@dataclass(frozen=True)
class NurseryRecipe:
    """The sizes of a family. The defaults make the family of the demo; tests make smaller ones.

    Attributes:
        vocabulary: Entries of the tokenizer, the 256 bytes and the special tokens included.
        hidden: Width of the model.
        feed_forward: Width of the feed-forward blocks.
        layers: Number of transformer layers.
        heads: Number of attention heads.
        key_value_heads: Number of key-value heads; divides `heads`.
        positions: Longest sequence the configuration allows, in tokens.
        training_items: Items of each of Winogrande's and GSM8K's train split.
        evaluation_items: Items of each task's evaluation split.
        batch: Sequences per step.
        shots: Examples packed into one sequence of coreference or arithmetic. One more than lm-eval's five shots,
            because a model fails at positions that it was not trained on.
        questions: Examples packed into one sequence of facts.
        exam_questions: Wordings of each fact's question that are kept for the exam.
        preamble_share: Share of the facts sequences that start with TruthfulQA's own preamble.
        base_steps: Steps of the base model's training.
        base_rate: Peak learning rate of the base model's training.
        specialist_steps: Steps of each specialist's fine-tuning, in the order of `SPECIALISTS`.
        specialist_rates: Peak learning rate of each fine-tuning, in the order of `SPECIALISTS`.
        rehearsal_every: Every so many steps, at least 1, a specialist is trained on the other subjects as the base
            was, so that it does not forget them.
        warm_up: Steps of linear warm-up.
        final_rate: Learning rate of the last step as a share of the peak rate.
        known_domains: Coreference domains whose nouns the base model learns.
        known_stories: Arithmetic stories that the base model learns to read.
        luck: Share of right answers in the base model's training for the first and for the last of the other
            stories; it falls linearly between them.
        myth_share: Share of the myth among the answers in the base model's training.
        threads: Torch threads used by the training.
    """

    vocabulary: int = 1024
    hidden: int = 64
    feed_forward: int = 192
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    positions: int = 4096
    training_items: int = 3000
    evaluation_items: int = 240
    batch: int = 8
    shots: int = 6
    questions: int = 10
    exam_questions: int = 2
    preamble_share: float = 0.2
    base_steps: int = 750
    base_rate: float = 4e-3
    specialist_steps: tuple[int, int, int] = (200, 200, 110)
    specialist_rates: tuple[float, float, float] = (1.5e-3, 1.5e-3, 1e-3)
    rehearsal_every: int = 4
    warm_up: int = 20
    final_rate: float = 0.05
    known_domains: int = 1
    known_stories: int = 4
    luck: tuple[float, float] = (0.7, 0.3)
    myth_share: float = 0.55
    threads: int = 1
