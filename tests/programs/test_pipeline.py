"""transformers' pipelines with a Wings folder: chats, batches and texts, as `generate` answers."""

import json

import pytest
import transformers
from hub import Hub
from interpreter import run
from packaging.version import Version
from served import answer
from transformers import pipeline

from wings.sharing.card import make_card
from wings.sharing.card_facts import CardOptions, read_facts

LENGTH = 6
TASKS = ("image-text-to-text", "any-to-any")


@pytest.fixture(scope="module", params=TASKS)
def pipe(request, checkpoint):
    return pipeline(request.param, model=str(checkpoint[0]))


def chat(text, *images, key="image"):
    parts = [{"type": "image", key: image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def expected(checkpoint, messages, length=LENGTH):
    return answer(*checkpoint[1:], messages, length)


def said(pipe, messages, **options):
    options = {"max_new_tokens": LENGTH, "return_full_text": False, **options}
    found = pipe(text=messages, **options)
    return [one[0]["generated_text"] if isinstance(one, list) else one["generated_text"]
            for one in found]  # fmt: skip


def test_a_chat_is_answered_as_by_generate(pipe, checkpoint, pictures):
    for messages in (chat("Which?", pictures[0]), chat("1+1?"), chat("Both?", *pictures)):
        assert said(pipe, messages) == [expected(checkpoint, messages)]


@pytest.mark.parametrize("key", ["path", "url", "image"])
def test_an_image_may_be_a_file(key, pipe, checkpoint, pictures, tmp_path):
    pictures[0].save(tmp_path / "red.png")
    given = chat("Which?", str(tmp_path / "red.png"), key=key)
    assert said(pipe, given) == [expected(checkpoint, chat("Which?", pictures[0]))]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_chats_of_different_lengths_are_answered_in_batches(size, pipe, checkpoint, pictures):
    chats = [
        chat("Which colour is it?", pictures[0]),
        chat("Both?", *pictures),
        [
            *chat("Which?", pictures[1]),
            {"role": "assistant", "content": [{"type": "text", "text": "blue"}]},
            *chat("And this?", pictures[0]),
        ],
    ]
    assert said(pipe, chats, batch_size=size) == [expected(checkpoint, one) for one in chats]


def test_the_whole_text_holds_the_messages_and_the_answer(pipe, checkpoint, pictures):
    messages = chat("Which?", pictures[0])
    (found,) = pipe(text=messages, max_new_tokens=LENGTH)
    *before, last = found["generated_text"]
    assert before == messages
    assert last == {"role": "assistant", "content": expected(checkpoint, messages)}


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.24"),
    reason="pipelines of older transformers cannot join text of parts",
)
def test_an_answer_that_was_begun_goes_on(pipe, checkpoint, pictures):
    _, model, processor = checkpoint
    started = {"role": "assistant", "content": [{"type": "text", "text": "It is"}]}
    begun = [*chat("Which?", pictures[0]), started]
    (found,) = pipe(text=begun, max_new_tokens=LENGTH)
    batch = processor.apply_chat_template(
        begun, continue_final_message=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ids = model.generate(**batch, max_new_tokens=LENGTH, do_sample=False)
    rest = processor.decode(ids[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    parts = found["generated_text"][-1]["content"]
    assert "".join(part["text"] for part in parts) == "It is" + rest


@pytest.mark.parametrize("size", [1, 2])
def test_texts_with_images_beside_them(size, pipe, checkpoint, pictures):
    _, model, processor = checkpoint
    texts = ["<image>Which?", "<image>And which colour is this?"]
    found = pipe(images=list(pictures), text=texts, max_new_tokens=LENGTH, batch_size=size)
    for one, text, picture in zip(found, texts, pictures, strict=True):
        batch = processor(images=picture, text=text, return_tensors="pt")
        ids = model.generate(**batch, max_new_tokens=LENGTH, do_sample=False)
        rest = processor.decode(ids[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        assert one["generated_text"] == text + rest


def test_a_stop_sequence_ends_an_answer(checkpoint, pictures):
    pipe = pipeline(TASKS[0], model=str(checkpoint[0]))
    whole = expected(checkpoint, chat("Which?", pictures[0]))
    stop = whole[1]
    found = said(pipe, chat("Which?", pictures[0]), stop_sequence=stop)
    assert found == [whole[: whole.index(stop) + 1]] != [whole]


SCRIPT = """
import json, sys
from PIL import Image
from transformers import pipeline
pipe = pipeline(model="lab/tiny", trust_remote_code=True)
chat = json.loads(sys.argv[1])
chat[0]["content"][0]["image"] = Image.new("RGB", (30, 28), "red")
found = pipe(text=chat, max_new_tokens=6, return_full_text=False)
print(json.dumps([pipe.task, type(pipe.model).__module__, found[0]["generated_text"]]))
"""


def test_a_name_on_the_hub_needs_no_task(checkpoint, pictures, tmp_path):
    folder = checkpoint[0]
    card = make_card(read_facts(folder, "lab/tiny", CardOptions()))
    with Hub() as hub:
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        hub.add("lab/tiny", {**files, "README.md": card.encode()})
        messages = json.dumps(chat("Which?", None))
        done = run(["-c", SCRIPT, messages], hub.environment(tmp_path))
    assert done.returncode == 0, done.stderr
    task, module, text = json.loads(done.stdout.splitlines()[-1])
    assert task == TASKS[0] and module == "wings.model.causal_lm"
    assert text == expected(checkpoint, chat("Which?", pictures[0]))


def test_plain_text_goes_on(checkpoint):
    """Pipelines read some fields of any configuration: `prefix` as a string, for one."""
    folder, model, processor = checkpoint
    (found,) = pipeline("text-generation", model=str(folder))(
        "It is", max_new_tokens=LENGTH, do_sample=False
    )
    batch = processor(text="It is", return_tensors="pt")
    ids = model.generate(**batch, max_new_tokens=LENGTH, do_sample=False)
    rest = processor.decode(ids[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    assert found["generated_text"] == "It is" + rest
