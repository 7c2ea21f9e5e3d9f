"""What every family's causal LM does around its decoder is kept, or the family is refused."""

import copy
import warnings

import pytest
import torch
from all_families import KINDS, class_of, groups, tiny_llm
from families import VISION, VOCABULARY, text_config
from transformers import AutoModelForCausalLM

from wings import WingsError, WingsForCausalLM
from wings.train.data.collator import loss_tokens
from wings.upstream.causal_lm import RESIZING, REVIEWED, replaced_members, validate_reviewed

# No padding: families with absolute positions count padding tokens, which Wings does not.
IDS = torch.tensor([[3, 4, 5, 6, 7, 8, 9], [14, 15, 16, 10, 11, 12, 13]])
# Types that no tiny model was made of: they need parts that a text prompt does not have.
NOT_BUILT = frozenset(
    {
        "blt", "dbrx", "gemma3", "gemma3n", "gemma4", "gemma4_assistant", "gemma4_unified",
        "gemma4_unified_assistant", "git", "got_ocr2", "gpt_neo", "mamba2", "mllama",
        "moss_transcribe_diarize", "musicgen", "musicgen_melody", "phi4_multimodal", "prophetnet",
        "reformer", "roc_bert", "xlnet", "xmod",
    }
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_members_that_nobody_reviewed_are_refused(kind):
    model_class = class_of(kind)
    unknown = replaced_members(model_class) - REVIEWED
    if not unknown:
        validate_reviewed(model_class)
        return
    with pytest.raises(WingsError, match=min(unknown)):
        validate_reviewed(model_class)


def long_rope():
    """A Phi-3 whose rotary factors change after 8 tokens, where its causal LM drops the cache."""
    rope = {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4,
        "long_factor": [3.0] * 4, "original_max_position_embeddings": 8,
    }  # fmt: skip
    torch.manual_seed(0)
    config = text_config("phi3", rope_parameters=rope, original_max_position_embeddings=8)
    llm = AutoModelForCausalLM.from_config(config).eval()
    for parameter in llm.parameters():
        parameter.data.mul_(3.0 if parameter.ndim > 1 else 1.0)
    return llm


def test_inputs_that_a_family_prepares_in_its_own_way_are_its_own():
    llm = long_rope()
    model = WingsForCausalLM.from_vision_text_pretrained(
        VISION, copy.deepcopy(llm), rank=4, router="modality", image_token_id=VOCABULARY
    )
    plain = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": None}
    ids = IDS[:1, :5]
    expected = llm.generate(input_ids=ids, **plain)
    assert torch.equal(model.generate(input_ids=ids, **plain), expected)
    seen = torch.tensor([[3, *[VOCABULARY] * model.config.image_seq_length, 4]])
    pixels = torch.randn(1, 3, 16, 16)
    with pytest.raises(WingsError, match="computes the whole row anew"):
        model.generate(input_ids=seen, pixel_values=pixels, **plain)


def test_embeddings_that_a_family_resizes_in_its_own_way_are_left_alone():
    resizing = [kind for kind in KINDS if replaced_members(class_of(kind)) & set(RESIZING)]
    llms = [llm for llm in map(tiny_llm, resizing) if llm is not None]
    for llm in llms:
        try:
            model = WingsForCausalLM.from_vision_text_pretrained(
                VISION, copy.deepcopy(llm), rank=4, router=None, image_token_id=VOCABULARY
            )
        except WingsError:
            continue
        with pytest.raises(WingsError, match="resizes its embeddings"):
            model.resize_token_embeddings(VOCABULARY + 8)
    plain = WingsForCausalLM.from_vision_text_pretrained(
        VISION, copy.deepcopy(tiny_llm("llama")), rank=4, router=None, image_token_id=VOCABULARY
    )
    plain.resize_token_embeddings(VOCABULARY + 8)
    with torch.no_grad():
        assert plain(input_ids=IDS, labels=IDS).logits.shape[-1] == VOCABULARY + 8


@pytest.mark.parametrize("first", KINDS)
def test_loss_logits_and_tokens_are_the_llms_own(first):
    (group,) = (group for group in groups() if first in group)
    if first != group[0]:
        # One test for each group. Groups are found here, as that imports every family.
        return
    kind = next((kind for kind in group if tiny_llm(kind) is not None), None)
    if kind is None:
        assert set(group) <= NOT_BUILT, f"build a tiny model of one of {group}"
        return
    llm = copy.deepcopy(tiny_llm(kind))
    batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    plain = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": 0, "eos_token_id": None}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = WingsForCausalLM.from_vision_text_pretrained(
                VISION, copy.deepcopy(llm), rank=4, router="modality", text_guard=True,
                image_token_id=VOCABULARY,
            )  # fmt: skip
    except WingsError as error:
        assert "\n" not in str(error) and str(error).endswith(".")
        return
    # Under the guard with learners that act, and without it with fresh ones.
    for guard in (False, True):
        model.config.text_guard = guard
        with torch.no_grad():
            expected, out = llm(**batch, labels=IDS), model(**batch, labels=IDS)
        torch.testing.assert_close(out.logits, expected.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(out.loss, expected.loss, atol=1e-5, rtol=1e-5)
        with torch.no_grad():
            # Of the tokens before a label, over which some families add a loss of logits.
            kept = {**batch, "labels": IDS, **loss_tokens(IDS)}
            whole, chunked = model(**kept), model(**kept, loss_chunk=3)
        torch.testing.assert_close(chunked.loss, whole.loss, atol=1e-5, rtol=1e-5)
        ids = llm.generate(**batch, **plain)
        assert torch.equal(model.generate(**batch, **plain), ids)
        for name, parameter in model.named_parameters():
            if ".wings." in name:
                parameter.data.normal_(std=0.5)
