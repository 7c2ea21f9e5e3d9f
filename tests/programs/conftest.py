"""Fixtures: a tiny checkpoint whose chat template marks the assistant's turns."""

import pytest
from PIL import Image
from served import save_noisy
from tiny import tiny_model

# As `tiny.TEMPLATE`, with {% generation %} around what the assistant says.
MARKED = """{%- for message in messages -%}<|{{ message['role'] }}|>
{%- if message['role'] == 'assistant' -%}{% generation %}
{%- if message['content'] is string -%}{{ message['content'] }}
{%- else -%}{%- for part in message['content'] -%}{{ part['text'] }}{%- endfor -%}{%- endif -%}
<|end|>{% endgeneration %}
{%- else -%}{%- if message['content'] is string -%}{{ message['content'] }}
{%- else -%}{%- for part in message['content'] -%}
{{ '<image>' if part['type'] == 'image' else part['text'] }}
{%- endfor -%}{%- endif -%}<|end|>{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"""


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A folder with a random model and its processor."""
    model, processor = tiny_model()
    processor.chat_template = MARKED
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pictures():
    """A red and a blue image."""
    return [Image.new("RGB", (30, 28), colour) for colour in ("red", "blue")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with noise on all weights, so that learners have an effect; model and processor."""
    folder = tmp_path_factory.mktemp("noisy") / "tiny"
    return folder, *save_noisy(folder)
