"""Options of a processor's call, with the names, defaults and meaning that transformers has."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from wings.errors import WingsError, nearest
from wings.sense import VALUES

# transformers groups options by what they are for; each is also taken without its group.
_GROUPS = ("text_kwargs", "common_kwargs")
_OTHER_GROUPS = ("images_kwargs", "videos_kwargs", "audio_kwargs")
# Options that a program hands on, and the values with which they ask for nothing.
_NOTHING: dict[str, tuple] = {
    "device": (None,),
    "is_split_into_words": (False,),
    "load_audio_from_video": (False,),
    "return_length": (False,),
    "return_offsets_mapping": (False,),
    "return_overflowing_tokens": (False,),
    "return_special_tokens_mask": (False,),
    "return_text_replacement_offsets": (False,),
    "return_token_type_ids": (False,),
    "sanitize_control_tokens": (False, True),
    "stride": (0,),
    "text_pair": (),
    "text_pair_target": (),
    "text_target": (),
    "verbose": (False, True),
}
# A tokenizer without a limit of its own has a number of about 1e30.
_NO_LIMIT = 10**9
_CHOICES: dict[str, tuple] = {
    "padding": (False, True, "longest", "max_length", "do_not_pad"),
    "padding_side": (None, "left", "right"),
    "truncation": (None, False, True, "longest_first", "only_first", "do_not_truncate"),
    "return_tensors": (None, "pt", "np"),
    "add_special_tokens": (None, False, True),
    "return_attention_mask": (None, False, True),
    "return_mm_token_type_ids": (False, True),
}


@dataclass(frozen=True)
class TextOptions:
    """transformers' options of `processor(text=...)`.

    Attributes:
        add_special_tokens: the tokenizer's own, such as a BOS; None for the method's default.
        padding: False, True or "longest" (of the batch), "max_length".
        padding_side: "left" or "right"; None for the tokenizer's.
        truncation: True cuts rows of more than `max_length` tokens on the tokenizer's
            `truncation_side`; None does so where `max_length` is given without padding to it.
        max_length: tokens of a row; None for the tokenizer's limit.
        pad_to_multiple_of: rounds the padded length up.
        return_tensors: "pt", "np" or None for lists.
        return_attention_mask: False leaves it out.
        return_mm_token_type_ids: adds 1 for each token of an image and 0 for text.
    """

    add_special_tokens: bool | None = None
    padding: bool | str = False
    padding_side: str | None = None
    truncation: bool | str | None = None
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: str | None = None
    return_attention_mask: bool | None = None
    return_mm_token_type_ids: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "TextOptions":
        """The options of a call, in groups (`text_kwargs`) or without.

        Raises:
            WingsError: an option that there is not, a value it cannot have, or one without effect.
        """
        options: dict[str, Any] = {}
        for name, value in given.items():
            if name in _GROUPS:
                options |= value or {}
            elif name in _OTHER_GROUPS:
                if value := {k: v for k, v in (value or {}).items() if k != "return_tensors"}:
                    raise WingsError(
                        f"{name} has '{next(iter(value))}', which has no effect: images are "
                        "prepared as the tower needs them; leave it out."
                    )
            else:
                options[name] = value
        known = cls.names()
        for name, value in options.items():
            if name in _NOTHING:
                if value is not None and not _is_one_of(value, _NOTHING[name]):
                    raise WingsError(f"The option '{name}' is not supported; leave it out.")
            elif name not in known:
                raise WingsError(
                    f"There is no option '{name}'{nearest(name, [*known, *_NOTHING])}; options are "
                    f"{', '.join(known)}."
                )
        values = {name: options[name] for name in known if name in options}
        if values.get("padding", False) is None:
            values["padding"] = False
        result = cls(**{name: _plain(value) for name, value in values.items()})
        result._validate()
        return result

    @classmethod
    def names(cls) -> list[str]:
        """Names of the options."""
        return [field.name for field in fields(cls)]

    def _validate(self) -> None:
        for name, choices in _CHOICES.items():
            if not _is_one_of(getattr(self, name), choices):
                raise WingsError(
                    f"'{name}' is {getattr(self, name)!r}; it must be one of "
                    f"{', '.join(map(repr, choices))}."
                )
        for name in ("max_length", "pad_to_multiple_of"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise WingsError(f"'{name}' is {value!r}; it must be a whole number of tokens.")
            if value is not None and value < 1:
                raise WingsError(f"'{name}' is {value}; it must be 1 or more.")
        is_used = self.cuts or self.padding == "max_length"
        if self.max_length is not None and self.truncation is None and not is_used:
            # Not refused: programs that know transformers hand both on.
            warnings.warn(
                f"'max_length' is {self.max_length} and has no effect, as rows are padded to the "
                "longest; pass truncation=True or padding='max_length'.",
                stacklevel=4,
            )

    @property
    def cuts(self) -> bool:
        """True if rows of more than `max_length` tokens are cut."""
        if self.truncation is None:
            return self.max_length is not None and self.padding is False
        return self.truncation not in (False, "do_not_truncate")

    def cut(
        self, row: dict[str, Tensor], limit: int, side: str, token_ids: Mapping[str, int]
    ) -> dict:
        """Returns a row of at most `max_length` tokens.

        Args:
            row: `input_ids` and others [T]; items, such as `pixel_values`, stay.
            limit: tokens, where `max_length` is not given.
            side: "right" drops the last tokens, "left" the first.
            token_ids: of the placeholders, by sense.

        Raises:
            WingsError: the cut would take tokens of an item.
        """
        most = self.max_length or limit
        ids = row["input_ids"]
        if not self.cuts or len(ids) <= most:
            return row
        kept = slice(most) if side == "right" else slice(len(ids) - most, None)
        for sense, number in token_ids.items():
            if (ids[kept] == number).sum() != (ids == number).sum():
                noun = "an image" if sense == "image" else f"a source of {sense}"
                raise WingsError(
                    f"The text has {len(ids)} tokens, and a 'max_length' of {most} would cut "
                    f"{noun}; raise it, or shorten the text."
                )
        return {k: v[kept] if v.shape == ids.shape else v for k, v in row.items()}

    def widths(self, lengths: list[int], limit: int) -> list[int]:
        """Tokens of each row once padded.

        Args:
            lengths: tokens of the rows.
            limit: tokens, where `max_length` is not given.

        Raises:
            WingsError: neither `max_length` nor a limit to pad to, or tensors are wanted of rows
                that differ in length.
        """
        if self.padding in (False, "do_not_pad"):
            widths = lengths
        else:
            most = max(lengths)
            if self.padding == "max_length":
                if self.max_length is None and limit > _NO_LIMIT:
                    raise WingsError(
                        "padding='max_length' needs 'max_length', as the tokenizer has no limit; "
                        "pass one, or padding=True for the longest row."
                    )
                most = self.max_length or limit
            multiple = self.pad_to_multiple_of or 1
            most = -(-most // multiple) * multiple
            widths = [max(length, most) for length in lengths]
        if self.return_tensors == "pt" and len(set(widths)) > 1:
            raise WingsError(
                f"Rows have {min(widths)} to {max(widths)} tokens and are not padded, so they make "
                "no tensor; pass padding=True, with truncation=True where a row is too long."
            )
        return widths

    def convert(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The tensors of a batch as `return_tensors` asks; pixels are a tensor where lists are."""
        if self.return_tensors == "np":
            return {name: tensor.numpy() for name, tensor in batch.items()}
        if self.return_tensors == "pt":
            return batch
        return {
            name: tensor if VALUES.fullmatch(name) else tensor.tolist()
            for name, tensor in batch.items()
        }


def _plain(value: Any) -> Any:
    """The string of an enum (`TensorType`, `PaddingStrategy`)."""
    return getattr(value, "value", value)


def _is_one_of(value: Any, choices: tuple) -> bool:
    # Without 1 == True, which would let numbers through.
    return any(type(value) is type(choice) and value == choice for choice in choices)
