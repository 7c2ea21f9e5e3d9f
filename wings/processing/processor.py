"""The processor: turns text, chat messages and images into a batch of tensors."""

import copy
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    BatchFeature,
    PreTrainedTokenizerBase,
)

from wings.config import WingsConfig
from wings.encoders.open_clip_tower import VisionTower
from wings.encoders.tower_config import canonical_config
from wings.errors import WingsError
from wings.saved_files import inner_folder, reading, validate_has_owner
from wings.sharing.pushed_to_hub import PushedToHub
from wings.upstream.gguf import place_of
from wings.upstream.vocabulary import remove_token

from .chat_template import ChatTemplate
from .conversation import IMAGE_TOKEN, IMAGES_ONLY, Conversation
from .image_processor import WingsImageProcessor, check_counts, flatten_images
from .image_token import add_image_token, validate_image_token, vocab_size_at
from .row_encoder import RowEncoder
from .saved_processor import SavedProcessor
from .text_options import TextOptions
from .tokenization import PIXELS, pad_rows, stacked_pixels
from .turn_end import TurnEnd
from .typed_letters import TypedLetters

# Without one of these a folder would make another processor than the one that was saved.
PROCESSOR_FILES = ("processor_config.json", "tokenizer_config.json")


class WingsProcessor(PushedToHub, SavedProcessor):
    """The image transform of a vision tower together with the tokenizer of a language model.

    Args:
        image_processor: the tower's.
        tokenizer: the language model's; `<image>` is added as a special token if it has none, with
            the id of `add_image_token`.
        image_seq_length: features per image of the tower.
        chat_template: replaces the tokenizer's own.

    Attributes:
        image_token: "<image>", which stands for an image in a text.
        image_token_id: stands `image_seq_length` times for an image in `input_ids`; it may be
            the first id after the language model's vocabulary.
    """

    image_token = IMAGE_TOKEN

    def __init__(
        self,
        image_processor: WingsImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        image_seq_length: int,
        chat_template: str | dict | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer)
        self.chat_template = chat_template
        self.image_seq_length = image_seq_length
        size = (
            None if IMAGE_TOKEN in tokenizer.get_vocab() else vocab_size_at(tokenizer.name_or_path)
        )
        self.image_token_id = add_image_token(tokenizer, size)
        if tokenizer.pad_token is None:
            # Padding is masked, so it needs an id and no meaning.
            tokenizer.pad_token = tokenizer.eos_token

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision: str | Mapping,
        text: str | Path | PreTrainedTokenizerBase,
        **tokenizer_options: Any,
    ) -> "WingsProcessor":
        """Makes the processor of a tower and a language model; no weights are loaded.

        Args:
            vision: as `VisionTower.from_pretrained` takes it.
            text: a Hub id, a folder, a GGUF file, or a tokenizer (which is copied).
            **tokenizer_options: for `AutoTokenizer.from_pretrained`.

        Raises:
            WingsError: a tower or a tokenizer that is not known.
        """
        config = canonical_config(vision)
        with torch.device("meta"):
            tower = VisionTower(config)
        if isinstance(text, PreTrainedTokenizerBase):
            tokenizer = copy.deepcopy(text)
        elif isinstance(text, str | Path):
            place, file = place_of(text)
            with reading(place, "tokenizer"):
                tokenizer = AutoTokenizer.from_pretrained(place, **file, **tokenizer_options)
            if file:
                # By this name the rows of the embeddings are looked up.
                tokenizer.name_or_path = str(text)
        else:
            raise WingsError(
                f"'text' is a {type(text).__name__}; the processor needs the language model's Hub "
                "id, folder or tokenizer."
            )
        # Rows of a batch end together, so that all of them can be answered.
        tokenizer.padding_side = "left"
        images = WingsImageProcessor.from_vision_config(config)
        return cls(images, tokenizer, image_seq_length=tower.image_seq_length)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any
    ) -> "WingsProcessor":
        """Loads a processor; the arguments are transformers' own.

        Raises:
            WingsError: none that can be read (which file, and why), or the model in the same folder
                has another id for `<image>`, or another number of features per image.
        """
        source = inner_folder(pretrained_model_name_or_path, kwargs)
        validate_has_owner(source, "Wings processor")
        with reading(source, "Wings processor"):
            for name in PROCESSOR_FILES:
                if Path(source).is_dir() and not (Path(source) / name).is_file():
                    raise WingsError(
                        f"The folder '{source}' holds no processor, as it has no {name}: save the "
                        f"processor into it with save_pretrained."
                    )
            processor = super().from_pretrained(source, *args, **kwargs)
        known = ("cache_dir", "local_files_only", "revision", "subfolder", "token")
        validate_image_token(source, processor, **{k: kwargs[k] for k in known if k in kwargs})
        return processor

    def extract_tokenizer(self, vocab_size: int) -> PreTrainedTokenizerBase:
        """Returns a copy of the tokenizer for the language model alone.

        `<image>` is not in it, unless it is a token of the language model's own.

        Args:
            vocab_size: rows of the language model's embeddings; a larger id is not its own.
        """
        tokenizer = copy.deepcopy(self.tokenizer)
        if self.image_token_id >= vocab_size:
            remove_token(tokenizer, IMAGE_TOKEN)
        return tokenizer

    @property
    def chat_template(self) -> str | dict | None:
        """The chat template, which is the tokenizer's."""
        return self.tokenizer.chat_template

    @chat_template.setter
    def chat_template(self, template: str | dict | None) -> None:
        # ProcessorMixin sets None before there is a tokenizer to keep it in.
        if template is not None:
            self.tokenizer.chat_template = template

    @property
    def model_input_names(self) -> list[str]:
        """The tensors of a batch."""
        return ["input_ids", "attention_mask", "pixel_values"]

    # transformers has one signature for all senses; keywords are read by `TextOptions`.
    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: None = None,
        audio: None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Turns text with one `<image>` for each image into a batch, as transformers does.

        Text that `apply_chat_template` wrote can be given; a BOS in it is not written twice.

        Args:
            images: sources in reading order; with one list per text, each is checked alone.
            text: one text or several; without one, only `pixel_values` come back.
            videos, audio: None, as there is no such encoder.
            **kwargs: `TextOptions`, each alone or in `text_kwargs`. Special tokens are added, and
                nothing is padded or cut, unless the options say so.

        Returns:
            `input_ids`, `attention_mask` [B, T] int64 and `pixel_values` [N, 3, height, width]
            float32 (N > 0); lists of B lists, and pixels, without `return_tensors`.

        Raises:
            WingsError: images and `<image>` that do not match (both counts), an unknown option,
                tensors of rows that differ in length.
        """
        for sense, given in (("videos", videos), ("audio", audio)):
            if given is not None:
                raise WingsError(f"'{sense}' was given, and this model has no encoder for it.")
        options = TextOptions.of(kwargs)
        if text is None:
            if images is None:
                raise WingsError("Nothing was given; pass 'text', 'images' or both.")
            return BatchFeature(options.convert(dict(self.image_processor(images))))
        texts = [text] if isinstance(text, str) else list(text)
        if not texts or not all(isinstance(one, str) for one in texts):
            raise WingsError("'text' must be a string or a list of strings.")
        check_counts([one.count(IMAGE_TOKEN) for one in texts], images)
        encoder = self._rows(add_special_tokens=options.add_special_tokens is not False)
        rows = [encoder.of_text(one) for one in texts]
        # Pixels of a batch stand in reading order, whichever row they are handed in with.
        rows[0] |= encoder.pixels(flatten_images(images))
        return self._batch(rows, options)

    def encode(
        self,
        messages: Sequence[Mapping],
        *,
        max_length: int | None = None,
        add_generation_prompt: bool = False,
        **template_options: Any,
    ) -> dict[str, Tensor]:
        """Encodes one conversation for training.

        Args:
            messages: `{"role", "content"}`; content is a string or a list of `{"type": "text",
                "text"}` and `{"type": "image", "image"}`. An `<image>` in a text is only letters.
            max_length: tokens; while there are more, the oldest exchange goes (with a warning).
            add_generation_prompt: end with the assistant's header, for it to answer.
            **template_options: variables of the chat template.

        Returns:
            `input_ids` [T] and `labels` [T] int64 (-100 except for the assistant's turns with their
            end-of-turn tokens), `pixel_values` [n, 3, height, width] float32 where n > 0.

        Raises:
            WingsError: a bad message, an image without a source, no chat template or one that
                cannot render the messages, no turn to learn from, a newest exchange longer than
                `max_length`.
        """
        template, letters = ChatTemplate.of(self.tokenizer, template_options)
        conversation = Conversation.parse(messages, letters)
        self._fill([conversation], None)
        return self._rows(template, letters, labels=True).of_conversation(
            conversation, add_generation_prompt, max_length
        )

    # transformers declares `str` whatever is asked for.
    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Sequence,
        chat_template: str | None = None,
        tools: list | None = None,
        documents: list[dict] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_tensors: Any = "auto",
        return_dict: bool = False,
        load_audio_from_video: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        sanitize_control_tokens: bool = False,
        *,
        images: Any = None,
        return_labels: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Renders a conversation, or a list of them, and on request makes a batch of it.

        Signature, defaults and results are those of transformers' processors, with two additions,
        `images` and `return_labels`. Special tokens are those that the template writes, as with a
        tokenizer's own `apply_chat_template` and in training.

        Args:
            conversation: messages (see `encode`), or a list of conversations.
            chat_template: Jinja text, or the name of one of the tokenizer's templates.
            tools: functions or their JSON schemas, for templates that write them.
            documents: for templates that write them.
            add_generation_prompt: end with the assistant's header, for it to answer.
            continue_final_message: leave the last message open, for the model to go on with.
            return_assistant_tokens_mask: adds `assistant_masks`, 1 on the tokens of the assistant's
                turns; by the template's `{% generation %}` marks, or found without them.
            tokenize: False gives the text of the template, with one `<image>` for each image.
            return_tensors: "pt", "np", or None for lists ("auto" too, unless `processor_kwargs`
                say otherwise).
            return_dict: False gives `input_ids` alone.
            load_audio_from_video: False, as there is no encoder for audio.
            processor_kwargs: `TextOptions`, and `images` as below. They are also taken directly.
            sanitize_control_tokens: True or not, as control tokens that someone typed in a message
                are letters in any case.
            images: sources of the image parts that have none, in reading order.
            return_labels: adds `labels` of the assistant's turns, as `encode`.
            **kwargs: variables of the chat template.

        Returns:
            A text, or one per conversation. With `tokenize`, `input_ids` of one row per
            conversation; with `return_dict` a batch of `input_ids`, `attention_mask` [B, T], and
            `pixel_values` [N, 3, height, width] of all images in reading order (absent when N = 0).

        Raises:
            WingsError: as `encode`, naming the row where there are several; a keyword that is
                neither an option nor a variable of the template.
        """
        given = dict(processor_kwargs or {})
        # transformers took them directly once, and its own programs still hand them on so.
        given |= {name: kwargs.pop(name) for name in TextOptions.names() if name in kwargs}
        if "images" in given and images is not None:
            raise WingsError("'images' was given twice: leave it out of processor_kwargs.")
        images = given.pop("images", images)
        if return_tensors != "auto":
            given["return_tensors"] = return_tensors
        options = TextOptions.of({**given, "load_audio_from_video": load_audio_from_video})
        if continue_final_message and (add_generation_prompt or return_assistant_tokens_mask):
            other = "add_generation_prompt" if add_generation_prompt else "an assistant mask"
            raise WingsError(f"continue_final_message does not go with {other}; choose one.")
        if (return_labels or return_assistant_tokens_mask) and not (tokenize and return_dict):
            raise WingsError("Labels and masks need tokenize=True and return_dict=True.")
        template_options = kwargs | {
            name: value
            for name, value in (
                ("chat_template", chat_template), ("tools", tools or None),
                ("documents", documents or None),
                ("continue_final_message", continue_final_message or None),
            )
            if value is not None
        }  # fmt: skip
        if not tokenize and (unused := [*given, *["images"] * (images is not None)]):
            # Not refused: without `tokenize`, transformers' own processors ignore them.
            warnings.warn(
                f"Without tokenize=True the result is text, so {', '.join(unused)} had no effect.",
                stacklevel=2,
            )
        rows, is_batch = _conversations(conversation)
        template, letters = ChatTemplate.of(self.tokenizer, template_options)
        conversations = _each_row(rows, lambda one: Conversation.parse(one, letters))
        if not tokenize:
            texts = _each_row(conversations, lambda one: template.write(one, add_generation_prompt))
            texts = [letters.restore(text)[0] for text in texts]
            return texts if is_batch else texts[0]
        self._fill(conversations, images)
        encoder = self._rows(
            template, letters, labels=return_labels, mask=return_assistant_tokens_mask,
            add_special_tokens=bool(options.add_special_tokens),
        )  # fmt: skip
        encoded = _each_row(
            conversations, lambda one: encoder.of_conversation(one, add_generation_prompt)
        )
        batch = self._batch(encoded, options)
        return batch if return_dict else batch["input_ids"]

    def pad(
        self, rows: Sequence[Mapping[str, Tensor]], padding_side: str = "right"
    ) -> BatchFeature:
        """Pads rows that `encode` returned to one batch; see `apply_chat_template`."""
        return BatchFeature(pad_rows(rows, self._pad_id, padding_side))

    @property
    def _pad_id(self) -> int:
        return self.tokenizer.pad_token_id or 0

    def _batch(self, rows: list[dict[str, Tensor]], options: TextOptions) -> BatchFeature:
        """Cuts and pads the rows, and returns them as the options ask."""
        limit, side = self.tokenizer.model_max_length, self.tokenizer.truncation_side
        rows = _each_row(rows, lambda row: options.cut(row, limit, side, self.image_token_id))
        if options.return_mm_token_type_ids:
            rows = [
                row | {"mm_token_type_ids": (row["input_ids"] == self.image_token_id).long()}
                for row in rows
            ]
        widths = options.widths([len(row["input_ids"]) for row in rows], limit)
        side = options.padding_side or self.tokenizer.padding_side
        if len(set(widths)) == 1:
            batch = options.convert(pad_rows(rows, self._pad_id, side, widths[0]))
        else:
            padded = [
                options.convert(pad_rows([row], self._pad_id, side, width))
                for row, width in zip(rows, widths, strict=True)
            ]
            batch = {name: [one[name][0] for one in padded] for name in padded[0] if name != PIXELS}
            batch |= options.convert(stacked_pixels(rows))
        if options.return_attention_mask is False:
            del batch["attention_mask"]
        return BatchFeature(batch)

    def turn_end(self) -> TurnEnd | None:
        """The token that training teaches as the end of an assistant's turn; None if there is none.

        Raises:
            WingsError: the tokenizer has no chat template.
        """
        return self._rows(ChatTemplate(self.tokenizer, {})).turn_end()

    def _rows(
        self,
        template: ChatTemplate | None = None,
        letters: TypedLetters = IMAGES_ONLY,
        **options: bool,
    ) -> RowEncoder:
        return RowEncoder(
            self.tokenizer, self.image_processor, self.image_token_id, self.image_seq_length,
            template or ChatTemplate(self.tokenizer, {}), letters, **options,
        )  # fmt: skip

    def _fill(self, conversations: list[Conversation], images: Any) -> None:
        """Gives the image parts without a source the given images, row by row."""
        wanted = [one.all_images.count(None) for one in conversations]
        check_counts(wanted, images)
        given = flatten_images(images)
        for conversation in conversations:
            conversation.fill(given)


def _conversations(given: Sequence) -> tuple[list, bool]:
    """The conversations, and whether there may be several; transformers also has objects."""
    if not given or isinstance(given, str | Mapping):
        return [given], False
    first = given[0]
    is_batch = isinstance(first, list | tuple) or hasattr(first, "messages")
    rows = list(given) if is_batch else [given]
    return [getattr(row, "messages", row) for row in rows], is_batch


def _each_row(rows: list, work: Callable) -> list:
    """Calls `work` on every row; an error names the row."""
    done = []
    for index, row in enumerate(rows):
        try:
            done.append(work(row))
        except WingsError as error:
            if len(rows) == 1:
                raise
            raise WingsError(f"Row {index}: {error}") from error
    return done


AutoProcessor.register(WingsConfig, WingsProcessor, exist_ok=True)
