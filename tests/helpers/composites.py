"""Composite models of transformers, each made tiny, and their processors."""

import torch
import transformers as hf
from merged import TOKENS, language_model, moved, weights
from tiny import TEMPLATE, TEXT, tiny_tokenizer

IMAGE = TOKENS
CLIP = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip


def llava(llm, **changes):
    """LLaVA's form of transformers around the LLM's weights, trained on."""
    torch.manual_seed(0)
    text = language_model(**changes).config
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**CLIP, projection_dim=16), text_config=text,
        image_token_id=IMAGE, image_seq_length=4,
        tie_word_embeddings=bool(text.tie_word_embeddings),
    )  # fmt: skip
    model = hf.LlavaForConditionalGeneration(config).eval()
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


def llava_processor():
    size = {"height": 28, "width": 28}
    images = hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=size)
    return hf.LlavaProcessor(
        images, image_tokenizer(), patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=TEMPLATE,
    )  # fmt: skip


def qwen2_vl():
    """Pixels are a list of patches, with `image_grid_thw`; positions depend on the pictures."""
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    tokens = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    tokenizer = image_tokenizer(*tokens)
    sizes = {"patch_size": 4, "merge_size": 2}
    processor = hf.Qwen2VLProcessor(
        hf.Qwen2VLImageProcessor(**sizes, min_pixels=64, max_pixels=1024),
        tokenizer,
        hf.Qwen2VLVideoProcessor(**sizes),
        chat_template=TEMPLATE.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    positions = {"rope_type": "default", "type": "mrope", "mrope_section": [1, 1, 2]}
    text = {**TEXT, "rope_scaling": positions, "bos_token_id": 1, "eos_token_id": 1}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1}
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    config = hf.Qwen2VLConfig(
        text_config=text, vision_config={**vision, "patch_size": 4},
        **dict(zip(names, ids, strict=True)),
    )  # fmt: skip
    return hf.Qwen2VLForConditionalGeneration(config), processor


def idefics3():
    """Pictures are cut into tiles, padded to one number, with `pixel_attention_mask`."""
    tiles = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    tokenizer = image_tokenizer("<fake_token_around_image>", "<global-img>", *tiles)
    images = hf.Idefics3ImageProcessor(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
    )
    config = hf.Idefics3Config(
        text_config=hf.LlamaConfig(**TEXT), vision_config=CLIP, scale_factor=1,
        tie_word_embeddings=False, image_token_id=IMAGE,
    )  # fmt: skip
    processor = hf.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=TEMPLATE)
    return hf.Idefics3ForConditionalGeneration(config), processor


def save_composite(folder, model, processor):
    """Writes a model of random weights, large enough that its answers differ, and its processor."""
    moved(model, 3).eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
