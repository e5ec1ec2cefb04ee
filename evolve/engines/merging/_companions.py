"""The files of a checkpoint beside its weights: those that mergekit leaves out, and those it leaves wrong.

If mergekit builds a tokenizer for the child, it writes no generation_config.json. It also keeps the special token ids
of the model whose config.json it copied, although the child's tokens may have other ids or may not exist. An end token
beyond the vocabulary never ends a generation, and a padding token beyond it can prevent the model from loading.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evolve.engines.checkpoints import read_json_object
from evolve.engines.protocols import MergeJob

__all__ = ["complete"]

_GENERATION, _TEMPLATE, _TOKENIZER = "generation_config.json", "chat_template.jinja", "tokenizer_config.json"
_SPECIAL = ("bos", "eos", "pad")

_CARD = """\
---
library_name: transformers
tags: [mergekit, merge, model-kinship]
---

# {name}

A merge of {parents}, made with [mergekit](https://github.com/arcee-ai/mergekit) by `evolve`, which implements
*Exploring Model Kinship for Merging Large Language Models* ([arXiv 2410.12613](https://arxiv.org/abs/2410.12613)).

The recipe, also in `mergekit_config.yml`{seed}:

```yaml
{recipe}
```
"""


def complete(job: MergeJob, *, donor: Path, aligned: bool, seed: int | None) -> None:
    """Add the missing files and correct the special token ids.

    Args:
        job: The merge, whose weights and tokenizer are in its output folder.
        donor: Folder of the model whose config.json mergekit copied.
        aligned: Whether the child has a new tokenizer, so that its token ids may differ from the donor's.
        seed: Seed of mergekit's random generators; None if the method draws no random numbers.
    """
    source = _copy_generation_config(job, donor)
    if aligned:
        _renumber(job, [(job.output / "config.json", donor)] + ([(job.output / _GENERATION, source)] if source else []))
    for folder in (donor, *job.parents[:1]):
        if not _has_template(job.output):
            _copy_template(folder, job.output)
    (job.output / "mergekit_config.yml").write_text(job.recipe, encoding="utf-8")
    card = _CARD.format(
        name=" x ".join(path.name for path in job.parents),
        parents=" and ".join(f"`{path.name}`" for path in job.parents),
        recipe=job.recipe.rstrip(),
        seed="" if seed is None else f" (`mergekit-yaml --random-seed {seed}` repeats it)",
    )
    (job.output / "README.md").write_text(card, encoding="utf-8")


def _copy_generation_config(job: MergeJob, donor: Path) -> Path | None:
    """Copy generation_config.json unless mergekit did; return the folder it comes from, if there is one."""
    for folder in (donor, *job.parents[:1]):
        if (folder / _GENERATION).is_file():
            if not (job.output / _GENERATION).is_file():
                shutil.copyfile(folder / _GENERATION, job.output / _GENERATION)
            return folder
    return None


def _has_template(folder: Path) -> bool:
    return (folder / _TEMPLATE).is_file() or "chat_template" in _read(folder / _TOKENIZER)


def _copy_template(folder: Path, output: Path) -> None:
    if (folder / _TEMPLATE).is_file():
        shutil.copyfile(folder / _TEMPLATE, output / _TEMPLATE)
    elif template := _read(folder / _TOKENIZER).get("chat_template"):
        _write(output / _TOKENIZER, _read(output / _TOKENIZER) | {"chat_template": template})


def _renumber(job: MergeJob, files: Sequence[tuple[Path, Path]]) -> None:
    """Translate the special token ids in JSON files from the ids of the model that each was copied from."""
    from transformers import AutoTokenizer

    trust = job.trust_remote_code
    child = AutoTokenizer.from_pretrained(job.output, trust_remote_code=trust)
    numbers = child.get_vocab()
    defaults = {f"{kind}_token_id": getattr(child, f"{kind}_token_id") for kind in _SPECIAL}
    tokens = {}
    for source in {source for _, source in files}:
        vocabulary = AutoTokenizer.from_pretrained(source, trust_remote_code=trust).get_vocab()
        tokens[source] = {number: token for token, number in vocabulary.items()}
    for path, source in files:
        content = _read(path)
        if (changed := _renumbered(content, tokens[source], numbers, defaults)) != content:
            _write(path, changed)


def _renumbered(
    content: Mapping[str, Any],
    tokens: Mapping[int, str],
    numbers: Mapping[str, int],
    defaults: Mapping[str, int | None],
) -> dict[str, Any]:
    """Return settings with their `*_token_id` translated; where the child lacks the token, its own one, or null."""

    def translated(key: str, value: Any) -> Any:
        if key == "text_config" and isinstance(value, dict):
            return _renumbered(value, tokens, numbers, defaults)
        if not key.endswith("_token_id") or value is None:
            return value
        if isinstance(value, list):
            return [numbers[tokens[item]] for item in value if tokens.get(item) in numbers] or defaults.get(key)
        return numbers.get(tokens.get(value, ""), defaults.get(key))

    return {key: translated(key, value) for key, value in content.items()}


def _read(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.is_file() else {}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
