"""Encodes conversations with the processor of a composite model of transformers."""

from collections.abc import Mapping, Sequence
from itertools import chain

from jinja2.exceptions import TemplateError
from transformers import BatchFeature, ProcessorMixin

from wings.errors import WingsError

from .chat_template import ChatTemplate
from .conversation import source_of
from .image_reader import load_image
from .video_parts import VIDEO, replace_videos, video_parts
from .video_sampling import VideoSampling

# Processors raise errors of Python for pictures and texts that do not fit.
_ERRORS = (TemplateError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def encode_conversations(
    processor: ProcessorMixin,
    conversations: Sequence[list[dict]],
    add_generation_prompt: bool = True,
) -> BatchFeature:
    """Encodes conversations as a left-padded batch.

    Args:
        processor: of a composite model, with a chat template.
        conversations: [B] lists of messages; content is a string or a list of parts. A video is
            read as time stamps and images, as `WingsProcessor` reads it.
        add_generation_prompt: end with the assistant's header.

    Returns:
        `input_ids` and `attention_mask` [B, T] int64, and the processor's other tensors:
        `pixel_values`, `image_grid_thw`, `image_sizes` and so on; none of pictures without any.

    Raises:
        WingsError: a picture or video that cannot be read, no chat template, a text with the
            processor's own image token, or a conversation that it cannot encode.
    """
    _validate_texts(processor, conversations)
    conversations = [replace_videos(messages, _frames) for messages in conversations]
    template = ChatTemplate(processor.tokenizer, {"chat_template": chat_template_of(processor)})
    shaped = [
        template.shaped([_with_images(message) for message in messages])
        for messages in conversations
    ]
    try:
        # Annotated as a string, which is true only without tokenize.
        return processor.apply_chat_template(  # type: ignore[return-value]
            shaped,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=add_generation_prompt,
            processor_kwargs={"padding": True, "padding_side": "left"},
        )
    except _ERRORS as error:
        reason = " ".join(str(error).split()).rstrip(".")[:300] or "no reason given"
        raise WingsError(
            f"{type(processor).__name__} cannot encode {_described(conversations)} "
            f"({type(error).__name__}: {reason}); change or remove it."
        ) from error


def chat_template_of(processor: ProcessorMixin) -> str:
    """The Jinja text of a processor's chat template.

    Raises:
        WingsError: the processor has none.
    """
    template = getattr(processor, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise WingsError(
            f"The {type(processor).__name__} has no chat template, so its model cannot be asked in "
            "conversations; set processor.chat_template and save the processor again."
        )
    return template


def prompt_template(processor: ProcessorMixin) -> str:
    """The chat template as a tokenizer needs it to write the same tokens of text.

    A processor puts the tokenizer's BOS before a text that does not start with it; a tokenizer's
    `apply_chat_template` does not.
    """
    source, tokenizer = chat_template_of(processor), processor.tokenizer
    ids, bos = tokenizer("a").input_ids, tokenizer.bos_token
    if bos is None or ids[0] != tokenizer.bos_token_id:
        return source
    template = ChatTemplate(tokenizer, {"chat_template": source})
    text = template.render([{"role": "user", "content": "a"}], add_generation_prompt=True)
    return source if text.startswith(bos) else "{{ bos_token }}" + source


def _validate_texts(processor: ProcessorMixin, conversations: Sequence[list[dict]]) -> None:
    """Raises a `WingsError` for a text that would be read as an image without pixels."""
    token = getattr(processor, "image_token", None)
    for message in chain.from_iterable(conversations):
        text = _text(message["content"])
        if token and token in text:
            raise WingsError(
                f"{type(processor).__name__} would read {token} in the text {text!r:.60} as an "
                "image; change the text."
            )


def _with_images(message: dict) -> dict:
    """The message with its pictures read, so that all models see the same pixels."""
    if isinstance(message["content"], str):
        return message
    return message | {
        "content": [
            part | {"image": load_image(part["image"])} if part["type"] == "image" else part
            for part in message["content"]
        ]
    }


def _frames(part: Mapping) -> list[dict]:
    return video_parts(source_of(part, VIDEO), VideoSampling().with_options(part))


def _described(conversations: Sequence[list[dict]]) -> str:
    if len(conversations) > 1:
        return f"one of {len(conversations)} conversations"
    return f"the conversation that ends in {_text(conversations[0][-1]['content'])!r:.60}"


def _text(content: str | list[dict]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")
