"""What is learned as the end of a turn, and what stops an answer, are one fact."""

import pytest
import torch
from processors import ask, batch_of
from tiny import TEMPLATE, VISION, tiny_model, tiny_tokenizer
from transformers import GenerationConfig

from wings import WingsProcessor
from wings.processing.turn_end import settle_turn_end, stops_of

# Each template: its source, the token that is learned, and if the template writes it in the turn.
HEADERS = (
    "{%- for m in messages -%}<|{{ m['role'] }}|>{{ m['content'] }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
MARKED = (
    "{%- for m in messages -%}{%- if m['role'] == 'assistant' -%}<|assistant|>{% generation %}"
    "{{ m['content'] }}<|end|>{% endgeneration %}{%- else -%}<|user|>{{ m['content'] }}"
    "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
PLAIN = (
    "{%- for m in messages -%}{{ m['role'] }}: {{ m['content'] }}\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}assistant: {%- endif -%}"
)
TEMPLATES = {
    "in the turn": (TEMPLATE, "<|end|>", True),
    "marked": (MARKED, "<|end|>", True),
    "the next header": (HEADERS, "<|user|>", False),
    "a line break": (PLAIN, None, None),
}
TALK = [
    {"role": "user", "content": "a?"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c?"},
    {"role": "assistant", "content": "d"},
]


def processor_of(template):
    processor = WingsProcessor.from_vision_text_pretrained(VISION, tiny_tokenizer())
    processor.chat_template = template
    return processor


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_turns_end_is_learned(name):
    template, token, is_own = TEMPLATES[name]
    processor = processor_of(template)
    end = processor.turn_end()
    assert (end and end.token, end and end.is_own) == (token, is_own)
    row = processor.encode(TALK)
    learned = row["labels"][row["labels"] != -100].tolist()
    if end is None:
        special = processor.tokenizer.all_special_ids
        assert learned and not set(learned) & set(special)
        return
    letters = [processor.tokenizer.convert_tokens_to_ids(letter) for letter in "bd"]
    assert learned == [letters[0], end.id, letters[1], end.id]
    assert torch.equal(row["input_ids"][row["labels"] != -100], torch.tensor(learned))
    # A row that is full has no room for the end of its last turn.
    most = len(processor.encode(TALK, max_length=99)["input_ids"])
    assert len(processor.encode(TALK, max_length=most)["input_ids"]) == most


@pytest.mark.parametrize("stops", [None, 7, [7, 8]])
@pytest.mark.parametrize("name", TEMPLATES)
def test_generation_stops_at_what_is_learned_and_a_rift_is_said(name, stops):
    end = processor_of(TEMPLATES[name][0]).turn_end()
    config = GenerationConfig(eos_token_id=stops)
    before = stops_of(config)
    said = settle_turn_end(config, end)
    assert said.endswith(".") and ("about stopping" in said) == (end is None)
    assert stops_of(config) == before + ([] if end is None else [end.id])
    assert end is None or settle_turn_end(config, end) is None


@pytest.mark.parametrize("name", ["in the turn", "the next header"])
def test_a_trained_model_stops(name):
    processor = processor_of(TEMPLATES[name][0])
    model, _ = tiny_model({"eos_token_id": None})
    settle_turn_end(model.generation_config, processor.turn_end())
    batch = batch_of(processor, TALK[:2], return_labels=True)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    model.train()
    for _ in range(40):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    question = ask(processor, TALK[:1])
    out = model.eval().generate(**question, max_new_tokens=8, do_sample=False)
    answer = out[0, question["input_ids"].shape[1] :].tolist()
    assert answer == [processor.tokenizer.convert_tokens_to_ids("b"), processor.turn_end().id]
