"""The ids of placeholders: one rule for the model, the processor and their checkpoints."""

import os
from collections.abc import Mapping
from typing import Any

from transformers import AddedToken, AutoConfig, PreTrainedTokenizerBase

from wings.errors import WingsError
from wings.sense import IMAGE
from wings.upstream.configuration import read_config_dict
from wings.upstream.gguf import place_of
from wings.upstream.vocabulary import place_token

from .conversation import IMAGE_TOKEN


def add_image_token(tokenizer: PreTrainedTokenizerBase, vocab_size: int | None = None) -> int:
    """Returns the id of `<image>`, see `add_placeholder`."""
    return add_placeholder(tokenizer, IMAGE_TOKEN, vocab_size)


def add_placeholder(
    tokenizer: PreTrainedTokenizerBase, placeholder: str, vocab_size: int | None = None
) -> int:
    """Returns the id of a placeholder; adds it as a special token where the tokenizer has none.

    A new token gets the first id that neither the language model's embeddings nor the tokenizer
    have. So a model that knows no tokenizer comes to the same id.

    Args:
        tokenizer: of the language model; changed in place.
        placeholder: such as `<image>`.
        vocab_size: rows of the language model's embeddings, if known.

    Raises:
        WingsError: the tokenizer can only give it the id of another token.
    """
    vocabulary = tokenizer.get_vocab()
    if placeholder in tokenizer.get_added_vocab():
        return vocabulary[placeholder]
    if placeholder not in vocabulary and vocabulary:
        free = max(vocab_size or 0, max(vocabulary.values()) + 1)
        # A tokenizer without gaps gives a new token its length by itself.
        if free != len(vocabulary):
            place_token(tokenizer, placeholder, free)
    token = AddedToken(placeholder, special=True, normalized=False)
    tokenizer.add_tokens([token], special_tokens=True)
    number = tokenizer.get_vocab()[placeholder]
    shared = [word for word, at in vocabulary.items() if at == number and word != placeholder]
    if shared:
        raise WingsError(
            f"The tokenizer gives {placeholder} the id {number}, which {shared[0]!r} has; its ids "
            "have gaps, so add the token to its vocabulary with a free id."
        )
    return number


def vocab_size_at(source: str | os.PathLike) -> int | None:
    """Rows of the embeddings of the language model in a folder or on the Hub; None if unknown."""
    if not str(source):
        return None
    try:
        place, file = place_of(source)
        config = AutoConfig.from_pretrained(place, trust_remote_code=False, **file)
        return config.get_text_config().vocab_size
    # A folder with a tokenizer alone, a configuration in the repository's own code, and others.
    except Exception:
        fields = _config_fields(source)
    size = fields.get("vocab_size")
    return size if isinstance(size, int) else None


def validate_image_token(source: str | os.PathLike, processor: Any, **hub: Any) -> None:
    """Raises a `WingsError` if the model in `source` and a processor differ about images.

    Args:
        source: a folder or Hub id; nothing is compared where it has no Wings model.
        processor: the processor loaded from it.
        **hub: arguments of the Hub, such as `revision`.
    """
    fields = _config_fields(source, **hub)
    if fields.get("model_type") == "wings":
        validate_same_images(fields, processor, f"'{source}': ")


def _config_fields(source: str | os.PathLike, **hub: Any) -> dict[str, object]:
    """Fields of config.json; none where it cannot be read, which loading a model will name."""
    try:
        return read_config_dict(source, **hub)
    except Exception:
        return {}


def validate_same_images(fields: Mapping[str, Any], processor: Any, where: str = "") -> None:
    """Raises a `WingsError` if a model's configuration and a processor differ about a sense.

    Args:
        fields: of the configuration, `image_token_id` and `image_seq_length` among them.
        processor: has the `senses` of `WingsProcessor`.
        where: written before the error.
    """
    model: dict[str, Mapping[str, Any]] = {
        name: {"token_id": one.get("token_id"), "seq_length": one.get("seq_length")}
        for name, one in (fields.get("other_senses") or {}).items()
    }
    own = processor.senses
    if fields.get("vision_config") is not None:
        model[IMAGE] = {name: fields.get(f"image_{name}") for name in ("token_id", "seq_length")}
    if model and (lone := sorted(model.keys() ^ own.keys())):
        has, lacks = ("model's configuration", "processor")
        if lone[0] in own:
            has, lacks = lacks, has
        raise WingsError(
            f"{where}The {has} has the sense {lone[0]!r} and the {lacks} does not, so they belong "
            "to different models; use those of one model."
        )
    for sense, values in model.items():
        for name, value in values.items():
            found = getattr(own[sense], name)
            shown = f"image_{name}" if sense == IMAGE else f"{sense}: {name}"
            if isinstance(value, int) and value != found:
                raise WingsError(
                    f"{where}{shown} is {value} in the model's configuration and {found} in the "
                    "processor, so they belong to different models; use those of one model."
                )
