"""transformers' streamers, stop strings and limits with a Wings model, with images and without."""

import threading

import pytest
from served import answer, save_noisy
from transformers import StoppingCriteriaList, StopStringCriteria, TextIteratorStreamer

LENGTH = 12


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_noisy(tmp_path_factory.mktemp("streamers"))


class Counting(TextIteratorStreamer):
    """Also counts the tokens of each call."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.lengths = []

    def put(self, value):
        self.lengths.append(value.numel())
        super().put(value)


@pytest.fixture(params=["image", "text", "two images"])
def chat(request, pictures):
    images = {"image": pictures[:1], "text": [], "two images": pictures}[request.param]
    parts = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "Which?"}]}]


def batch_of(processor, chat):
    return processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


@pytest.mark.parametrize("with_prompt", [False, True])
def test_a_stream_is_the_answer_in_pieces(with_prompt, checkpoint, chat):
    model, processor = checkpoint
    batch = batch_of(processor, chat)
    streamer = Counting(
        processor.tokenizer, skip_prompt=not with_prompt, skip_special_tokens=True, timeout=60
    )
    options = {**batch, "max_new_tokens": LENGTH, "do_sample": False, "streamer": streamer}
    thread = threading.Thread(target=model.generate, kwargs=options)
    thread.start()
    pieces = [piece for piece in streamer if piece]
    thread.join()
    whole = answer(model, processor, chat, LENGTH)
    prompt = processor.decode(batch["input_ids"][0], skip_special_tokens=True)
    # The prompt at once, then one token after the other.
    assert streamer.lengths[0] == batch["input_ids"].numel()
    assert set(streamer.lengths[1:]) == {1} and len(streamer.lengths) > 3
    assert "".join(pieces) == (prompt if with_prompt else "") + whole


def test_a_limit_and_a_stop_string_end_an_answer(checkpoint, chat):
    model, processor = checkpoint
    batch = batch_of(processor, chat)
    whole = model.generate(**batch, max_new_tokens=LENGTH, min_new_tokens=LENGTH, do_sample=False)
    prompt = batch["input_ids"].shape[1]
    short = model.generate(**batch, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert short.tolist() == whole[:, : prompt + 3].tolist()
    text = processor.decode(whole[0, prompt:], skip_special_tokens=True)
    stop = text[2]
    expected = text[: text.index(stop) + 1]
    limits = {**batch, "max_new_tokens": LENGTH, "min_new_tokens": LENGTH, "do_sample": False}
    # As transformers serve gives it, and as most people do.
    for tokenizer in (processor.tokenizer, processor):
        ids = model.generate(**limits, stop_strings=[stop], tokenizer=tokenizer)
        assert processor.decode(ids[0, prompt:], skip_special_tokens=True) == expected
    criteria = StoppingCriteriaList([StopStringCriteria(processor.tokenizer, [stop])])
    ids = model.generate(**limits, stopping_criteria=criteria)
    assert processor.decode(ids[0, prompt:], skip_special_tokens=True) == expected
