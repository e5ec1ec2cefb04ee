"""Prompts in the model's chat template, with the few-shot examples in one turn or in several."""

from __future__ import annotations

import json
import shutil

import pytest

from . import _world

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</{{ m['role'] }}>{% endfor %}<assistant>"


@pytest.fixture(scope="module")
def chatty(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chatty") / "model"
    shutil.copytree(model, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": TEMPLATE}))
    return folder


def first_prompt(chatty, data, output, **options) -> str:
    output.mkdir()
    gsm8k = _world.three_tasks(data, limit=2)[1]
    _world.score(chatty, (gsm8k,), output, **options)
    return str(_world.prompts(output, "gsm8k")[0]["gen_args_0"]["arg_0"])


def test_the_chat_template_is_applied_when_asked_for(chatty, data, tmp_path):
    shots = _world.three_tasks(data)[1].num_fewshot
    assert shots
    plain = first_prompt(chatty, data, tmp_path / "plain")
    one_turn = first_prompt(chatty, data, tmp_path / "one", apply_chat_template=True)
    turns = first_prompt(chatty, data, tmp_path / "many", apply_chat_template=True, fewshot_as_multiturn=True)

    assert "<user>" not in plain
    assert (one_turn.count("<user>"), one_turn.count("Question:")) == (1, shots + 1)
    assert (turns.count("<user>"), turns.count("<assistant>")) == (shots + 1, shots + 1)
    assert one_turn.endswith("<assistant>")
