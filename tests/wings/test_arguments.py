"""Every argument that transformers' own models take works or is refused with a sentence."""

import copy

import pytest
import torch
from families import VISION, VOCABULARY, batch_of, build, text_config
from peft import PromptTuningConfig, get_peft_model

from wings import WingsConfig, WingsError, WingsForCausalLM

TEXT, IMAGE = ["text"] * 5, ["text", "image", "text", "text"]
GREEDY = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": 0, "eos_token_id": None}


@pytest.fixture
def model():
    return build("llama", router="modality")


def batch(model, *rows):
    return batch_of(model, list(rows), side="left")[0]


def ids(*values, dtype=torch.long):
    return torch.tensor(values, dtype=dtype)


WRONG = {
    "1-d ids": {"input_ids": ids(3, 4)},
    "no token": {"input_ids": torch.empty(1, 0, dtype=torch.long)},
    "no row": {"input_ids": torch.empty(0, 4, dtype=torch.long)},
    "floating ids": {"input_ids": ids([3.0, 4.0], dtype=torch.float32)},
    "nothing": {},
    "both": {"input_ids": ids([3]), "inputs_embeds": torch.zeros(1, 1, 32)},
    "2-d embeddings": {"inputs_embeds": torch.zeros(3, 32)},
    "images with embeddings": {
        "inputs_embeds": torch.zeros(1, 3, 32), "pixel_values": torch.zeros(1, 3, 16, 16)
    },
    "an id below 0": {"input_ids": ids([-3, 4])},
    "an id past the table": {"input_ids": ids([3, 9999])},
    "a short mask": {"input_ids": ids([3, 4]), "attention_mask": torch.ones(1, 1)},
    "a mask of other rows": {"input_ids": ids([3, 4]), "attention_mask": torch.ones(2, 2)},
    "a 4-d mask": {"input_ids": ids([3, 4]), "attention_mask": torch.ones(1, 1, 2, 2)},
    "1-d positions": {"input_ids": ids([3, 4]), "position_ids": ids(0, 1)},
    "long positions": {"input_ids": ids([3, 4]), "position_ids": ids([0, 1, 2])},
    "short labels": {"input_ids": ids([3, 4]), "labels": ids([3])},
    "1-d labels": {"input_ids": ids([3, 4]), "labels": ids(3, 4)},
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_input_is_a_sentence(name, model):
    with pytest.raises(WingsError, match=r"^[^\n]+\.$"), torch.no_grad():
        model(**WRONG[name])


def test_embeddings_of_text_work_as_their_ids_do(model):
    given = batch(model, TEXT, TEXT)
    embeddings = model.get_input_embeddings()(given["input_ids"])
    with torch.no_grad():
        assert torch.equal(
            model(inputs_embeds=embeddings, attention_mask=given["attention_mask"]).logits,
            model(**given).logits,
        )
    found = model.generate(inputs_embeds=embeddings, **GREEDY)
    assert torch.equal(found, model.generate(**given, **GREEDY)[:, 5:])


def test_prompt_tuning_trains_its_prompt():
    # peft finds the table of embeddings by its number of rows, which no other weight may have.
    config = WingsConfig(
        text_config=text_config("llama", vocab_size=VOCABULARY + 5), vision_config=VISION, rank=4,
        router="modality",
    )  # fmt: skip
    model = WingsForCausalLM(config)
    options = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    tuned = get_peft_model(model, options)
    given = batch(model, TEXT)
    tuned(**given, labels=given["input_ids"]).loss.backward()
    gradients = [p.grad for p in tuned.parameters() if p.requires_grad]
    assert gradients and all(g is not None and g.abs().sum() > 0 for g in gradients)


def test_labels_of_image_tokens_are_not_learned(model):
    given = batch(model, IMAGE)
    is_image = given["input_ids"] == model.config.image_token_id
    assert model.config.image_token_id >= VOCABULARY
    with torch.no_grad():
        found = model(**given, labels=given["input_ids"]).loss
        masked = model(**given, labels=given["input_ids"].masked_fill(is_image, -100)).loss
    assert torch.equal(found, masked)


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_the_attention_of_a_model_can_be_chosen_later(name, model):
    given = batch(model, IMAGE)
    changed = copy.deepcopy(model)
    changed.set_attn_implementation(name)
    with torch.no_grad():
        expected, found = model(**given).logits, changed(**given).logits
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["flash_attention_2", "flex_attention", "nonsense", {}, {"text_config": "flash"}]
)
def test_other_attention_is_refused(name, model):
    with pytest.raises(WingsError, match="choose one of eager, sdpa"):
        copy.deepcopy(model).set_attn_implementation(name)


def test_a_cache_of_inference_mode_stays_there(model):
    given = batch(model, IMAGE)
    with torch.inference_mode():
        cache = model(**given, use_cache=True).cache
        model(input_ids=ids([3]), cache=cache)
    with pytest.raises(WingsError, match="inference_mode"):
        model(input_ids=ids([3]), cache=cache)


DRAFTS = {
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "the model itself": "model",
    "the bare language model": "llm",
}


@pytest.mark.parametrize("name", DRAFTS)
def test_drafted_tokens_change_no_answer(name, model):
    options = DRAFTS[name]
    if isinstance(options, str):
        drafting = copy.deepcopy(model) if options == "model" else model.extract_language_model()
        options = {"assistant_model": drafting}
    for rows in (IMAGE, [*TEXT, *TEXT], ["text", "image", "image", *TEXT]):
        given = batch(model, rows)
        expected = model.generate(**given, **GREEDY)
        assert torch.equal(model.generate(**given, **GREEDY, **options), expected)


# Options of `generate` that read the prompt or the scores, each with two rows of different length.
OPTIONS = {
    "encoder_repetition_penalty": 1.5, "encoder_no_repeat_ngram_size": 2, "num_beams": 3,
    "no_repeat_ngram_size": 2, "bad_words_ids": [[5]], "sequence_bias": {(5,): -3.0},
    "guidance_scale": 1.5, "forced_eos_token_id": 5, "suppress_tokens": [5, 6],
    "begin_suppress_tokens": [7], "min_new_tokens": 3, "repetition_penalty": 1.5,
    "max_time": 9.0, "prefix_allowed_tokens_fn": lambda row, ids: [4, 5, 6],
    "prefill_chunk_size": 3, "use_cache": False, "output_scores": True, "num_return_sequences": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_generate_work_with_images_or_are_refused(name, model):
    given = batch(model, IMAGE, ["text", "image", "image", "text"])
    try:
        out = model.generate(**given, **{**GREEDY, name: OPTIONS[name]})
    except ValueError as error:
        # Of Wings, or of transformers: it refuses to split images into chunks.
        assert isinstance(error, WingsError) or name == "prefill_chunk_size"
        return
    new = out[:, given["input_ids"].shape[1] :]
    assert new.shape == (2, 6) and not (new == model.config.image_token_id).any()
