"""Composite models of transformers, each made tiny, and their processors."""

import transformers as hf
from llava import IMAGE, image_tokenizer
from merged import moved
from tiny import TEMPLATE, TEXT

CLIP = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip


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
