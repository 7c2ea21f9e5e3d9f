"""The processor: turns text, chat messages, images, sounds and videos into a batch of tensors."""

import copy
import os
import warnings
from collections.abc import Mapping, Sequence
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
from wings.encoders.audio_encoder import AudioEncoder
from wings.encoders.open_clip_tower import VisionTower
from wings.encoders.tower_config import canonical_config
from wings.errors import WingsError
from wings.saved_files import inner_folder, reading, validate_has_owner
from wings.sense import IMAGE, VALUES
from wings.sharing.pushed_to_hub import PushedToHub
from wings.upstream.gguf import place_of
from wings.upstream.vocabulary import remove_token

from .chat_template import ChatTemplate
from .conversation import IMAGE_TOKEN, IMAGES_ONLY, Conversation, source_of
from .conversation_rows import conversations_of, each_row
from .image_processor import WingsImageProcessor
from .image_token import add_placeholder, validate_image_token, vocab_size_at
from .item_encoder import (
    AUDIO,
    ItemEncoder,
    check_counts,
    flatten,
    make_item_processor,
    token_of,
    type_ids,
)
from .row_encoder import RowEncoder
from .same_tokenizer import validate_same_tokenizer
from .saved_processor import SavedProcessor
from .text_options import TextOptions
from .tokenization import pad_rows, stacked_items
from .turn_end import TurnEnd
from .typed_letters import TypedLetters
from .video_input import VideoInput
from .video_parts import VIDEO, VIDEO_TOKEN, replace_videos
from .video_sampling import KEYWORDS as VIDEO_KEYWORDS
from .video_sampling import VideoSampling, time_stamp

_VIDEO_AS_TEXT = {"type": "text", "text": VIDEO_TOKEN}
# Without one of these a folder would make another processor than the one that was saved.
PROCESSOR_FILES = ("processor_config.json", "tokenizer_config.json")


class WingsProcessor(PushedToHub, SavedProcessor):
    """The processors of each sense's items together with the tokenizer of a language model.

    Args:
        image_processor: of the vision tower; not used by a model that does not see.
        tokenizer: the language model's; placeholders such as `<image>` are added as special tokens
            if it has none, with the ids of `add_placeholder`.
        image_seq_length: features per image of the tower; None for a model that does not see.
        chat_template: replaces the tokenizer's own.
        other_senses: of each further sense `encoder`, its configuration, and `seq_length`, features
            an item; such as `{"audio": {...}}`.
        video_sampling: which frames of a video are taken: `max_frames`, `fps`, see `VideoSampling`.
            Parts of messages may have their own.

    Attributes:
        image_token: "<image>", which stands for an image in a text.
        image_token_id: stands `image_seq_length` times for an image in `input_ids`; it may be
            the first id after the language model's vocabulary.
        senses: an `ItemEncoder` by sense.
    """

    image_token = IMAGE_TOKEN

    def __init__(
        self,
        image_processor: WingsImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        image_seq_length: int | None = None,
        chat_template: str | dict | None = None,
        other_senses: Mapping[str, Mapping[str, Any]] | None = None,
        video_sampling: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer)
        self.video_sampling = video_sampling or {}
        self.chat_template = chat_template
        self.image_seq_length = image_seq_length
        self.other_senses = copy.deepcopy(dict(other_senses or {}))
        self.senses: dict[str, ItemEncoder] = {}
        tokens = [token_of(name) for name in self.other_senses]
        tokens = [*([] if image_seq_length is None else [IMAGE_TOKEN]), *tokens]
        known = tokenizer.get_vocab()
        size = None
        if any(token not in known for token in tokens):
            size = vocab_size_at(tokenizer.name_or_path)
        self.image_token_id = None
        if image_seq_length is not None:
            self.image_token_id = add_placeholder(tokenizer, IMAGE_TOKEN, size)
            self.senses[IMAGE] = ItemEncoder(
                IMAGE, self.image_token_id, image_seq_length, image_processor
            )
        for name, fields in self.other_senses.items():
            number = add_placeholder(tokenizer, token_of(name), size)
            maker = make_item_processor(name, fields["encoder"])
            self.senses[name] = ItemEncoder(name, number, fields["seq_length"], maker)
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
        return cls.from_pretrained_parts(text=text, image=vision, **tokenizer_options)

    @classmethod
    def from_pretrained_parts(
        cls,
        *,
        text: str | Path | PreTrainedTokenizerBase,
        image: str | Mapping | None = None,
        audio: str | Mapping | None = None,
        **tokenizer_options: Any,
    ) -> "WingsProcessor":
        """Makes the processor of a language model and the encoders of senses; loads no weights.

        Args:
            text: a Hub id, a folder, a GGUF file, or a tokenizer (which is copied).
            image: a vision tower, as `VisionTower.from_pretrained` takes it; None for none.
            audio: an audio encoder, as `AudioEncoder.from_pretrained` takes it; None for none.
            **tokenizer_options: for `AutoTokenizer.from_pretrained`.

        Raises:
            WingsError: an encoder or a tokenizer that is not known, or no encoder at all.
        """
        if image is None and audio is None:
            raise WingsError("No encoder was given; pass 'image', 'audio' or both.")
        images, image_seq_length, others = WingsImageProcessor(), None, {}
        with torch.device("meta"):
            if image is not None:
                config = canonical_config(image)
                image_seq_length = VisionTower(config).image_seq_length
                images = WingsImageProcessor.from_vision_config(config)
            if audio is not None:
                encoder = AudioEncoder(audio)
                others[AUDIO] = {"encoder": encoder.config, "seq_length": encoder.seq_length}
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
        return cls(images, tokenizer, image_seq_length, other_senses=others)

    @classmethod
    def compose(cls, first: "WingsProcessor", *others: "WingsProcessor") -> "WingsProcessor":
        """Makes the processor of the model that `WingsForCausalLM.compose` makes.

        The tokenizer is a copy of the first's; placeholders of the others get the next free ids.

        Raises:
            WingsError: other tokenizers or chat templates, or a sense that two of them have.
        """
        images, image_seq_length = first.image_processor, first.image_seq_length
        sampling = first.video_sampling
        senses, tokenizer = dict(first.other_senses), copy.deepcopy(first.tokenizer)
        taken = set(first.senses)
        for number, other in enumerate(others, 2):
            validate_same_tokenizer(first, other, number)
            if both := sorted(taken & other.senses.keys()):
                raise WingsError(
                    f"Processor {number} has the sense {both[0]!r}, and one before it too."
                )
            taken |= other.senses.keys()
            if other.image_seq_length is not None:
                images, image_seq_length = other.image_processor, other.image_seq_length
                sampling = other.video_sampling
            senses |= other.other_senses
        return cls(
            images, tokenizer, image_seq_length, other_senses=senses, video_sampling=sampling
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields that are saved."""
        left_out = ("senses", "_video_sampling")
        fields = {name: one for name, one in super().to_dict().items() if name not in left_out}
        return fields | ({"video_sampling": self.video_sampling} if self.video_sampling else {})

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

        Placeholders are not in it, unless they are tokens of the language model's own.

        Args:
            vocab_size: rows of the language model's embeddings; a larger id is not its own.
        """
        tokenizer = copy.deepcopy(self.tokenizer)
        for sense in self.senses.values():
            if sense.token_id >= vocab_size:
                remove_token(tokenizer, sense.token)
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
    def video_sampling(self) -> dict[str, Any]:
        """The fields of `VideoSampling` that are not the default; any of them can be set."""
        return self._video_sampling.changes()

    @video_sampling.setter
    def video_sampling(self, fields: Mapping[str, Any]) -> None:
        self._video_sampling = VideoSampling.of(fields)

    @property
    def model_input_names(self) -> list[str]:
        """The tensors of a batch."""
        items = [sense.values_name for sense in self.senses.values()]
        return ["input_ids", "attention_mask", *items]

    # transformers has one signature for all senses; keywords are read by `TextOptions`.
    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        audio: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Turns text with an `<image>`, `<audio>` or `<video>` for each source into a batch.

        Text that `apply_chat_template` wrote can be given; a BOS in it is not written twice.

        Args:
            images: sources in reading order; with one list per text, each is checked alone.
            text: one text or several; without one, only the items' values come back.
            videos: sources of videos. Each becomes time stamps and images; without videos,
                `<video>` is only letters.
            audio: sources of sounds, as `images` are of images; None where the model hears none.
            **kwargs: `TextOptions`, each alone or in `text_kwargs`, and `num_frames` and `fps` of
                videos, alone or in `videos_kwargs`. Special tokens are added, and nothing is padded
                or cut, unless the options say so.

        Returns:
            `input_ids`, `attention_mask` [B, T] int64 and `pixel_values` [N, 3, height, width]
            float32 (N > 0); lists of B lists, and pixels, without `return_tensors`.

        Raises:
            WingsError: images and `<image>` that do not match (both counts), an unknown option,
                tensors of rows that differ in length.
        """
        if (images is not None or videos is not None) and IMAGE not in self.senses:
            name = "videos" if images is None else "images"
            raise WingsError(f"'{name}' was given, and this model has no encoder for it.")
        if audio is not None and AUDIO not in self.senses:
            raise WingsError("'audio' was given, and this model has no encoder for it.")
        texts = [text] if isinstance(text, str) else text if text is None else list(text)
        if texts is not None and (not texts or not all(isinstance(one, str) for one in texts)):
            raise WingsError("'text' must be a string or a list of strings.")
        reader = self._video_input(kwargs)
        if videos is not None:
            texts, images = reader.in_texts(texts, images, videos)
        given = {name: one for name, one in ((IMAGE, images), (AUDIO, audio)) if one is not None}
        options = TextOptions.of(kwargs)
        encoder = self._rows(add_special_tokens=options.add_special_tokens is not False)
        loaded = {
            name: [encoder.load(name, source) for source in flatten(name, sources)]
            for name, sources in given.items()
        }
        if texts is None:
            if not any(loaded.values()):
                raise WingsError("Nothing was given; pass 'text', 'images', 'audio' or several.")
            return BatchFeature(options.convert(encoder.items(loaded)))
        for name, sense in self.senses.items():
            check_counts([one.count(sense.token) for one in texts], given.get(name), name)
        rows, left = [], {name: list(sources) for name, sources in loaded.items()}
        for one in texts:
            own = {name: left[name][: one.count(token_of(name))] for name in left}
            left = {name: left[name][len(own[name]) :] for name in left}
            rows.append(encoder.of_text(one, None, own))
        # Items of a batch stand in reading order, whichever row they are handed in with.
        rows[0] |= encoder.items(loaded)
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
                "text"}`, `{"type": "image", "image"}`, `{"type": "audio", "audio"}` and `{"type":
                "video", "video", "fps", "max_frames"}`, see `load_video` and `VideoSampling`. An
                `<image>` in a text is only letters.
            max_length: tokens; while there are more, the oldest exchange goes (with a warning).
            add_generation_prompt: end with the assistant's header, for it to answer.
            **template_options: variables of the chat template.

        Returns:
            `input_ids` [T] and `labels` [T] int64 (-100 except for the assistant's turns with their
            end-of-turn tokens), `pixel_values` [n, 3, height, width] float32 where n > 0, and
            `audio_values` likewise.

        Raises:
            WingsError: a bad message, an image without a source, no chat template or one that
                cannot render the messages, no turn to learn from, a newest exchange longer than
                `max_length`.
        """
        template, letters = self._template(template_options)
        (messages,) = self.video_input.in_messages([messages])
        conversation = Conversation.parse(messages, letters)
        self._fill([conversation], {})
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
        audio: Any = None,
        videos: Any = None,
        return_labels: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Renders a conversation, or a list of them, and on request makes a batch of it.

        Signature, defaults and results are those of transformers' processors. `images`, `audio`,
        `videos` and `return_labels` are added. Special tokens are those that the template writes,
        as with a tokenizer's own `apply_chat_template` and in training.

        Args:
            conversation: messages (see `encode`), or a list of conversations.
            chat_template: Jinja text, or the name of one of the tokenizer's templates.
            tools: functions or their JSON schemas, for templates that write them.
            documents: for templates that write them.
            add_generation_prompt: end with the assistant's header, for it to answer.
            continue_final_message: leave the last message open, for the model to go on with.
            return_assistant_tokens_mask: adds `assistant_masks`, 1 on the tokens of the assistant's
                turns; by the template's `{% generation %}` marks, or found without them.
            tokenize: False gives the text of the template, with one `<image>` for each image and
                one `<video>` for each video.
            return_tensors: "pt", "np", or None for lists ("auto" too, unless `processor_kwargs`
                say otherwise).
            return_dict: False gives `input_ids` alone.
            load_audio_from_video: True warns, as the sound of a video is not read.
            processor_kwargs: `TextOptions`, `num_frames` and `fps` of videos, and `images` as
                below. They are also taken directly.
            sanitize_control_tokens: True or not, as control tokens that someone typed in a message
                are letters in any case.
            images: sources of the image parts that have none, in reading order.
            audio: sources of the audio parts that have none, likewise.
            videos: sources of the video parts that have none, likewise.
            return_labels: adds `labels` of the assistant's turns, as `encode`.
            **kwargs: variables of the chat template.

        Returns:
            A text, or one per conversation. With `tokenize`, `input_ids` of one row per
            conversation; with `return_dict` a batch of `input_ids`, `attention_mask` [B, T], and
            `pixel_values` [N, 3, height, width] of all images in reading order (absent when N = 0),
            and `audio_values` of all stretches of sounds.

        Raises:
            WingsError: as `encode`, naming the row where there are several; a keyword that is
                neither an option nor a variable of the template.
        """
        given = dict(processor_kwargs or {})
        # transformers took them directly once, and its own programs still hand them on so.
        given |= {name: kwargs.pop(name) for name in TextOptions.names() if name in kwargs}
        sources = {"images": images, "audio": audio, "videos": videos}
        for name, one in sources.items():
            if name in given and one is not None:
                raise WingsError(f"'{name}' was given twice: leave it out of processor_kwargs.")
            sources[name] = given.pop(name, one)
        if return_tensors != "auto":
            given["return_tensors"] = return_tensors
        given |= {name: kwargs.pop(name) for name in VIDEO_KEYWORDS if name in kwargs}
        reader = self._video_input(given)
        if load_audio_from_video:
            # Not refused: servers of transformers ask for it whenever there is a video.
            warnings.warn("The sound of a video is not read; give it as audio.", stacklevel=2)
        options = TextOptions.of(given)
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
        unused = [*given, *(name for name, one in sources.items() if one is not None)]
        if not tokenize and unused:
            # Not refused: without `tokenize`, transformers' own processors ignore them.
            warnings.warn(
                f"Without tokenize=True the result is text, so {', '.join(unused)} had no effect.",
                stacklevel=2,
            )
        rows, is_batch = conversations_of(conversation)
        template, letters = self._template(template_options)
        if tokenize:
            rows = reader.in_messages(rows, sources["videos"])
        else:
            rows = [replace_videos(row, lambda part: [_VIDEO_AS_TEXT]) for row in rows]
        conversations = each_row(rows, lambda one: Conversation.parse(one, letters))
        if not tokenize:
            texts = each_row(conversations, lambda one: template.write(one, add_generation_prompt))
            texts = [letters.restore(text)[0] for text in texts]
            return texts if is_batch else texts[0]
        self._fill(conversations, {IMAGE: sources["images"], AUDIO: sources["audio"]})
        encoder = self._rows(
            template, letters, labels=return_labels, mask=return_assistant_tokens_mask,
            add_special_tokens=bool(options.add_special_tokens),
        )  # fmt: skip
        encoded = each_row(
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
        ids = {name: sense.token_id for name, sense in self.senses.items()}
        rows = each_row(rows, lambda row: options.cut(row, limit, side, ids))
        if options.return_mm_token_type_ids:
            rows = [row | {"mm_token_type_ids": type_ids(row["input_ids"], ids)} for row in rows]
        widths = options.widths([len(row["input_ids"]) for row in rows], limit)
        side = options.padding_side or self.tokenizer.padding_side
        if len(set(widths)) == 1:
            batch = options.convert(pad_rows(rows, self._pad_id, side, widths[0]))
        else:
            padded = [
                options.convert(pad_rows([row], self._pad_id, side, width))
                for row, width in zip(rows, widths, strict=True)
            ]
            names = [name for name in padded[0] if not VALUES.fullmatch(name)]
            batch = {name: [one[name][0] for one in padded] for name in names}
            batch |= options.convert(stacked_items(rows))
        if options.return_attention_mask is False:
            del batch["attention_mask"]
        return BatchFeature(batch)

    def turn_end(self) -> TurnEnd | None:
        """The token that training teaches as the end of an assistant's turn; None if there is none.

        Raises:
            WingsError: the tokenizer has no chat template.
        """
        return self._rows(ChatTemplate(self.tokenizer, {})).turn_end()

    def estimate(self, part: Mapping[str, Any]) -> int:
        """Tokens that a part of a message takes if it is no text; nothing is decoded.

        Args:
            part: an image, a sound or a video, with its source.

        Returns:
            0 where the model lacks the sense.
        """
        kind = part["type"]
        sense = self.senses.get(IMAGE if kind == VIDEO else kind)
        if sense is None:
            return 0
        if kind != VIDEO:
            return sense.estimate(source_of(part, kind)) * sense.seq_length
        stamp = self.tokenizer(time_stamp(0), add_special_tokens=False)["input_ids"]
        return self.video_input.count(part) * (sense.seq_length + len(stamp))

    @property
    def video_input(self) -> VideoInput:
        """Reads videos as this processor does."""
        return self._video_input({})

    def _video_input(self, keywords: dict[str, Any]) -> VideoInput:
        sampling = self._video_sampling.with_keywords(keywords)
        return VideoInput(sampling, self.image_processor.limits, self.senses)

    def _template(self, options: dict[str, Any]) -> tuple[ChatTemplate, TypedLetters]:
        tokens = tuple(sense.token for sense in self.senses.values())
        return ChatTemplate.of(self.tokenizer, options, tokens)

    def _rows(
        self,
        template: ChatTemplate | None = None,
        letters: TypedLetters = IMAGES_ONLY,
        **options: bool,
    ) -> RowEncoder:
        if letters is IMAGES_ONLY:
            letters = TypedLetters([sense.token for sense in self.senses.values()])
        template = template or ChatTemplate(self.tokenizer, {})
        return RowEncoder(self.tokenizer, self.senses, template, letters, **options)

    def _fill(self, conversations: list[Conversation], sources: Mapping[str, Any]) -> None:
        """Gives the items without a source the given ones, row by row."""
        for sense in (IMAGE, AUDIO):
            wanted = [_count_none(one.sources(sense)) for one in conversations]
            check_counts(wanted, sources.get(sense), sense)
            given = flatten(sense, sources.get(sense))
            for conversation in conversations:
                conversation.fill(sense, given)


def _count_none(sources: list) -> int:
    # Not `count`, which compares arrays.
    return sum(source is None for source in sources)


AutoProcessor.register(WingsConfig, WingsProcessor, exist_ok=True)
