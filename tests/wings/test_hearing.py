"""Sounds from messages to answers: processor, model, their checkpoint, and both senses at once."""

import copy
import json

import numpy as np
import pytest
import soundfile
import torch
from audio_models import tiny_audio
from PIL import Image
from tiny import TEXT, VISION, tiny_tokenizer
from transformers import AutoModelForMultimodalLM, AutoProcessor, LlamaConfig, LlamaForCausalLM

from wings import WingsError, WingsForCausalLM, WingsProcessor
from wings.saved_code import OF_SENSES

RATE = 16_000


@pytest.fixture(scope="module")
def text():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**TEXT)).eval()


def made(text, image=None, audio=None, **options):
    """A model whose learners act, and its processor."""
    options = {**({} if image is None else {"rank": 4}), **options}
    senses = {"audio": {"rank": 4}} if audio is not None else None
    model = WingsForCausalLM.from_pretrained_parts(
        text=copy.deepcopy(text), image=image, audio=audio, senses=senses, **options
    )
    processor = WingsProcessor.from_pretrained_parts(
        text=tiny_tokenizer(), image=image, audio=audio
    )
    for name, sense in processor.senses.items():
        model.config.change_sense(name, token_id=sense.token_id)
    for name, parameter in model.named_parameters():
        if ".wings." in name:
            torch.manual_seed(len(name))
            parameter.data.normal_(std=0.3)
    return model, processor


def sound(seconds, seed=0):
    """(samples, rate) of noise."""
    samples = np.random.default_rng(seed).normal(0, 0.1, int(seconds * RATE))
    return samples.astype(np.float32), RATE


def talk(*parts):
    content = [{"type": "text", "text": one} if isinstance(one, str) else one for one in parts]
    return [{"role": "user", "content": content}]


def heard(seconds, seed=0):
    return {"type": "audio", "audio": sound(seconds, seed)}


SEEN = {"type": "image", "image": Image.new("RGB", (28, 28), "red")}
BATCH = {"tokenize": True, "return_dict": True, "return_tensors": "pt",
         "add_generation_prompt": True}  # fmt: skip


@pytest.mark.parametrize("name", ["whisper", "wav2vec2"])
def test_a_clip_is_as_many_items_as_it_has_stretches(text, name):
    model, processor = made(text, audio=tiny_audio(name, pool=4))
    length = processor.senses["audio"].seq_length
    for seconds, stretches in ((0.05, 1), (1.0, 1), (1.5, 2), (3.0, 3)):
        batch = processor.apply_chat_template(talk(heard(seconds), "what?"), **BATCH)
        count = (batch["input_ids"] == processor.senses["audio"].token_id).sum()
        assert count == stretches * length and len(batch["audio_values"]) == stretches
        assert model(**batch).logits.isfinite().all()


def test_a_batch_of_both_senses_equals_each_row_alone(text):
    model, processor = made(text, VISION, tiny_audio("whisper", pool=4), text_guard=True)
    rows = [
        talk(SEEN, "a ", heard(1.5), "b"), talk("only words"), talk(heard(0.5, 1), SEEN, SEEN),
    ]  # fmt: skip
    batch = processor.apply_chat_template(rows, **BATCH, processor_kwargs={"padding": True})
    assert len(batch["pixel_values"]) == 3 and len(batch["audio_values"]) == 3
    together = model(**batch).logits
    for row, messages in enumerate(rows):
        alone = processor.apply_chat_template(messages, **BATCH)
        real = batch["attention_mask"][row].bool()
        torch.testing.assert_close(
            together[row][real], model(**alone).logits[0], atol=2e-5, rtol=1e-4
        )
    found = model.generate(**batch, max_new_tokens=3, do_sample=False)
    assert found.shape[1] == batch["input_ids"].shape[1] + 3


def test_text_alone_is_the_language_models_and_learners_of_sound_start_fresh(text):
    model = WingsForCausalLM.from_pretrained_parts(
        text=copy.deepcopy(text), audio=tiny_audio("hubert"), senses={"audio": {"rank": 4}}
    )
    ids = torch.tensor([[7, 8, 9]])
    assert torch.equal(model(ids).logits, text(ids).logits)
    assert [*model.config.senses] == ["audio"] and model.config.senses["audio"].guard
    assert model.config.senses["audio"].router == "attended"


def test_a_checkpoint_that_hears_is_loaded_by_auto_classes(text, tmp_path):
    model, processor = made(text, VISION, tiny_audio("whisper", pool=4))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for name in ("config.json", "processor_config.json"):
        # An older release would lose the sense without a word.
        assert json.loads((tmp_path / name).read_text())["wings_format"] == OF_SENSES
    messages = talk(SEEN, heard(1.2), "and?")
    again = AutoProcessor.from_pretrained(tmp_path)
    batch, other = (p.apply_chat_template(messages, **BATCH) for p in (processor, again))
    assert batch.keys() == other.keys()
    assert all(torch.equal(batch[name], other[name]) for name in batch)
    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_one_that_only_hears_is_saved_too(text, tmp_path):
    model, processor = made(text, audio=tiny_audio("ast"))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = WingsProcessor.from_pretrained(tmp_path)
    assert [*again.senses] == ["audio"] and again.image_token_id is None
    batch = again.apply_chat_template(talk(heard(1.0)), **BATCH)
    loaded = WingsForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_models_composed_of_one_that_sees_and_one_that_hears_answer_as_each(text):
    sees, eyes = made(text, image=VISION, text_guard=True)
    hears, ears = made(text, audio=tiny_audio("whisper", pool=4))
    both = WingsForCausalLM.compose(sees, hears)
    processor = WingsProcessor.from_pretrained_parts(
        text=tiny_tokenizer(), image=VISION, audio=tiny_audio("whisper", pool=4)
    )
    assert both.config.senses["audio"].token_id not in (
        both.config.image_token_id, *range(TEXT["vocab_size"])
    )  # fmt: skip
    for name, sense in processor.senses.items():
        both.config.change_sense(name, token_id=sense.token_id)
    for model, own, messages in (
        (sees, eyes, talk(SEEN, "what?")), (hears, ears, talk("say: ", heard(1.4)))
    ):  # fmt: skip
        ours = processor.apply_chat_template(messages, **BATCH)
        theirs = own.apply_chat_template(messages, **BATCH)
        assert torch.equal(both(**ours).logits, model(**theirs).logits)


def test_labels_and_lengths_count_the_features_of_sounds(text):
    _, processor = made(text, audio=tiny_audio("whisper", pool=4))
    messages = [*talk(heard(2.5), "b"), {"role": "assistant", "content": "yes"}]
    sample = processor.encode(messages)
    is_sound = sample["input_ids"] == processor.senses["audio"].token_id
    assert is_sound.sum() == 3 * processor.senses["audio"].seq_length
    assert (sample["labels"][is_sound] == -100).all() and (sample["labels"] != -100).sum() == 4
    longer = [*messages, *messages]
    with pytest.warns(UserWarning, match="1 oldest of 2 exchanges"):
        cut = processor.encode(longer, max_length=len(sample["input_ids"]))
    assert torch.equal(cut["input_ids"], sample["input_ids"]) and len(cut["audio_values"]) == 3
    with pytest.raises(WingsError, match=r"newest exchange takes .* images and sounds"):
        processor.encode(messages, max_length=5)


def test_sounds_may_be_given_apart_and_as_plain_text(text):
    _, processor = made(text, VISION, tiny_audio("whisper", pool=4))
    one, two = sound(0.4), sound(1.4, 3)
    open_parts = talk({"type": "audio"}, "a", {"type": "audio"}, SEEN)
    batch = processor.apply_chat_template(open_parts, **BATCH, audio=[one, two])
    assert len(batch["audio_values"]) == 3
    plain = processor(text=["<audio>a<audio>", "<image>b"], audio=[one, two], padding=True,
                      images=SEEN["image"], return_tensors="pt")  # fmt: skip
    assert torch.equal(plain["audio_values"], batch["audio_values"])
    with pytest.raises(WingsError, match=r"2 places for a sound .* and 1 sounds were given"):
        processor.apply_chat_template(open_parts, **BATCH, audio=[one])
    with pytest.raises(WingsError, match="places for a sound without a source and 1 sounds"):
        processor(text="no place", audio=[one])


def test_typed_letters_of_a_placeholder_stay_letters(text):
    _, processor = made(text, audio=tiny_audio("whisper", pool=4))
    batch = processor.apply_chat_template(talk("<audio>", heard(0.2), "<audio>"), **BATCH)
    count = (batch["input_ids"] == processor.senses["audio"].token_id).sum()
    assert count == processor.senses["audio"].seq_length


def test_senses_that_the_model_lacks_are_refused(text):
    _, hears = made(text, audio=tiny_audio("whisper", pool=4))
    _, sees = made(text, image=VISION)
    with pytest.raises(WingsError, match="has image, and this model has no encoder for it"):
        hears.apply_chat_template(talk(SEEN), **BATCH)
    with pytest.raises(WingsError, match="has audio, and this model has no encoder for it"):
        sees.apply_chat_template(talk(heard(1.0)), **BATCH)
    with pytest.raises(WingsError, match="'audio' was given, and this model has no encoder"):
        sees(text="<audio>", audio=[sound(1)])
    with pytest.raises(WingsError, match="No encoder was given"):
        WingsForCausalLM.from_pretrained_parts(text=copy.deepcopy(text))
    with pytest.raises(WingsError, match="'rank' is about images and the model does not see"):
        WingsForCausalLM.from_pretrained_parts(
            text=copy.deepcopy(text), audio=tiny_audio("whisper"), rank=4
        )
    with pytest.raises(WingsError, match="senses gives fields of 'audio'"):
        WingsForCausalLM.from_pretrained_parts(text=copy.deepcopy(text), image=VISION,
                                               senses={"audio": {}})  # fmt: skip


def test_the_length_of_a_sound_is_estimated_from_its_header(text, tmp_path):
    _, processor = made(text, audio=tiny_audio("whisper", pool=4))
    sense = processor.senses["audio"]
    samples, rate = sound(2.5)
    soundfile.write(tmp_path / "a.ogg", samples, rate)
    path = tmp_path / "a.ogg"
    known = (
        (samples, rate), (np.stack([samples, samples]), rate), path, str(path), path.read_bytes(),
        {"array": samples.tolist(), "sampling_rate": rate}, {"bytes": path.read_bytes()},
        {"bytes": None, "path": str(path)},
    )  # fmt: skip
    for source in known:
        assert sense.estimate(source) == len(processor.senses["audio"].load(source)) == 3
    unknown = (
        "https://nowhere.example/a.wav", "nowhere.wav", b"", b"no sound", {}, {"path": None}, 7,
        (samples, 0), (samples,), {"array": samples}, (np.float32(1.0), rate), object(),
    )  # fmt: skip
    assert [sense.estimate(source) for source in unknown] == [1] * len(unknown)
