"""A tiny model of LLaVA's form in transformers, around the weights of a language model."""

import torch
from merged import TOKENS, language_model, moved, weights
from tiny import tiny_tokenizer
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

IMAGE = TOKENS


def llava(llm, **changes):
    """LLaVA's form of transformers around the LLM's weights, trained on."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        image_size=28, patch_size=14, projection_dim=16,
    )  # fmt: skip
    text = language_model(**changes).config
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=IMAGE, image_seq_length=4,
        tie_word_embeddings=bool(text.tie_word_embeddings),
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config).eval()
    own = weights(llm)
    head = {} if text.tie_word_embeddings else {"weight": own.pop("lm_head.weight")}
    own.pop("lm_head.weight", None)
    model.model.language_model.load_state_dict(
        {name.removeprefix("model."): tensor for name, tensor in own.items()}
    )
    if head:
        model.lm_head.load_state_dict(head)
    return moved(model, 3)


def image_tokenizer(*tokens):
    """The tiny tokenizer with `<image>` and further tokens."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<image>", *tokens], special_tokens=True)
    assert tokenizer.convert_tokens_to_ids("<image>") == IMAGE
    return tokenizer
