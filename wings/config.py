"""`WingsConfig`: a language model, a vision tower and the learners that connect them."""

import dataclasses
import os
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from .config_fields import Settled, default
from .config_values import CHECKS, shown, validate_field
from .errors import WingsError, nearest
from .lora_options import LoraOptions
from .saved_code import (
    JSON_CLASSES,
    OF_IMAGES,
    OF_SENSES,
    auto_map,
    stamp,
    validate_format,
    write_code,
)
from .sense import FIELDS, IMAGE, TEXT, Sense, validate_senses
from .upstream.configuration import keys_of_transformers

# Where language model and tower came from; with fingerprints, a checkpoint lacks them.
BASE_KEY = "wings_base"
# Keys of config.json that are ours and no fields.
NO_FIELDS = {*stamp(), BASE_KEY}
# Fields of a sense that have another name for images.
IMAGE_FIELDS = {
    "encoder": "vision_config", "token_id": "image_token_id", "seq_length": "image_seq_length",
    "guard": "text_guard",
}  # fmt: skip


class WingsConfig(PreTrainedConfig):
    r"""Everything that determines the shape of a Wings model; bad values are refused here.

    Args:
        text_config: the decoder's own configuration, as an object or a dict with `model_type`.
        vision_config: open_clip's fields (`model_name` or `vision_cfg`) plus `select_layer`, `pool`
            and the preprocessing; see `wings.encoders.open_clip_tower.VisionTower`. None for a
            model that does not see.
        other_senses: further senses by name, such as `{"audio": {"encoder": {...}}}`; see
            `wings.sense.Sense` for their fields. Those of images are here, without a prefix.
        senses_rule: how the learners of several senses share a token that can see items of
            each: `"sum"`, `"mean"`, `"newest"` or `"attended"`; see
            `wings/layers/combination.py`. With one sense there is nothing to share.
        rank: r of every low-rank factor.
        router: `"position"` (the paper's), `"modality"` (independent of length), `"attended"`
            (weights grow with the block's attention to image tokens) or None (weight 1 each). The
            first two weigh learners against one another, so a single learner has neither.
        gate_shape: `"tanh"` or `"hill"`, how the attended router's weight grows with the mass m on
            image tokens: tanh(gain m), or 1 / (1 + (tau / m)^gate_power), which has a threshold
            tau. Both are learned, or set by `WingsForCausalLM.set_gate`.
        gate_power: steepness of the Hill gate.
        gate_detach: the mass enters the attended router without gradient. Training through it
            raises the attention to images on text turns too, which opens the gate there.
        learner_form: `"lorra"` (the paper's), or `"cross_attention"`, gated cross-attention to
            compare with, of width `rank`. See `wings/layers/cross_attention.py`.
        learners: the learners of a block, of `("image", "text")`; `()` for a plain projector model.
        share_factors: all learners of a block use the factors of the first; each has its own
            softmax and its own weight.
        learner_layers: the blocks with learners and prefix; None for all.
        prefix_length: learned keys and values per block that every token attends to, a baseline to
            compare learners with; 0 for none. See `wings/layers/prefix.py`.
        lora: the fields of `LoraOptions`, for adapters on the decoder's linear layers; None for
            none. See `wings/layers/adapter.py`.
        normalize_sources: RMS-normalise the learners' source tokens before keys and values.
        init_std: std of the first factors (truncated normal), or `"scaled"` for D ** -0.5.
        projector: `"mlp2x_gelu"`, two linear layers with a GELU between.
        text_guard: learners act only on tokens that can see an image; a prefix acts on all.
        image_token_id: the id written once per image feature; it may be past the vocabulary.
        image_seq_length: features per image, after pooling; None until a model knows its tower.
        router_positions (tokens): positions that the position router knows.
    """

    model_type = "wings"
    # There is no default decoder to compare with when only differences are saved.
    has_no_defaults_at_init = True
    sub_configs: ClassVar = {"text_config": AutoConfig}
    keys_to_ignore_at_inference: ClassVar = ["past_key_values", "cache"]

    text_config: Settled[dict | PreTrainedConfig | None, PreTrainedConfig] = default(None)
    vision_config: Settled[dict | None, dict] = default(None)
    rank: int = 64
    router: str | None = "position"
    learner_form: str = "lorra"
    learners: Settled[tuple | list, tuple[str, ...]] = default(("image", "text"))
    share_factors: bool = False
    learner_layers: Settled[tuple | list | None, tuple[int, ...] | None] = default(None)
    prefix_length: int = 0
    lora: dict | None = None
    normalize_sources: bool = False
    init_std: float | str = 0.02
    projector: str = "mlp2x_gelu"
    text_guard: bool = False
    image_token_id: Settled[int | None, int] = default(None)
    image_seq_length: Settled[int | None, int] = default(None)
    router_positions: int = 4096
    gate_shape: str = "tanh"
    gate_power: float = 8.0
    gate_detach: bool = False
    other_senses: Settled[dict | None, dict[str, dict]] = default(None)
    senses_rule: str = "sum"
    llm_trained: bool | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        validate_format(kwargs)
        self.other_senses = {} if self.other_senses is None else self.other_senses
        if self.text_config is None:
            raise WingsError("text_config is missing: a Wings model needs a decoder.")
        if self.vision_config is None and not self.other_senses:
            raise WingsError("vision_config is missing: a Wings model needs a decoder and a tower.")
        if isinstance(self.text_config, dict):
            self.text_config = _decoder_config(self.text_config)
        if not isinstance(self.text_config, PreTrainedConfig):
            raise WingsError(
                f"text_config is {shown(self.text_config)}, but must be a decoder's configuration."
            )
        self._validate_names(kwargs)
        self._validate_values()
        self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)
        self.learners = tuple(self.learners)
        if self.learner_layers is not None:
            self.learner_layers = tuple(self.learner_layers)
        self.settle_tokens()
        self.validate()
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Reads the fields of a config.json; keys of other programs become attributes.

        Saving writes these again.

        Raises:
            WingsError: a bad value, a mistyped field, or a format that only a newer release reads.
        """
        validate_format(config_dict)
        foreign = cls._foreign(config_dict)
        known = {name: value for name, value in config_dict.items() if name not in foreign}
        result = super().from_dict(known, **kwargs)
        config = result[0] if isinstance(result, tuple) else result
        for name in foreign:
            setattr(config, name, config_dict[name])
        return result

    def save_pretrained(
        self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """As in transformers; also writes the code and the version that `saved_code` describes."""
        write_code(save_directory)
        classes = auto_map(JSON_CLASSES["config.json"])
        self.auto_map = {**(getattr(self, "auto_map", None) or {}), **classes}
        for name, value in stamp(OF_SENSES if self.other_senses else OF_IMAGES).items():
            setattr(self, name, value)
        super().save_pretrained(save_directory, push_to_hub, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Does nothing: every folder is saved with its code, see `saved_code`."""

    @property
    def hidden_size(self) -> int:
        """D, the width of the decoder."""
        return self.text_config.hidden_size

    @property
    def senses(self) -> dict[str, Sense]:
        """The senses by name, images first."""
        found = {} if self.vision_config is None else {IMAGE: self._sense(IMAGE, 1)}
        for name in self.other_senses:
            found[name] = self._sense(name, len(found) + 1)
        return found

    def change_sense(self, name: str, **fields: Any) -> None:
        """Sets fields of a sense, by their names in `Sense`; `validate` looks at them."""
        for field, value in fields.items():
            if name == IMAGE:
                setattr(self, IMAGE_FIELDS.get(field, field), value)
            else:
                self.other_senses = {
                    **self.other_senses, name: {**self.other_senses[name], field: value}
                }  # fmt: skip

    def fields_of(self, name: str) -> dict[str, Any]:
        """The fields of a sense as they are written, by their names in `wings.sense.FIELDS`."""
        if name == IMAGE:
            return {field: getattr(self, IMAGE_FIELDS.get(field, field)) for field in FIELDS}
        return {**FIELDS, **self.other_senses[name]}

    def _sense(self, name: str, kind: int) -> Sense:
        fields = self.fields_of(name)
        learners = fields["learners"]
        fields["learners"] = (name, TEXT) if learners is None else tuple(learners)
        layers = fields.pop("learner_layers")
        if layers is None:
            layers = range(self.text_config.num_hidden_layers)
        return Sense(
            name, kind, **fields, layers=tuple(sorted(layers)) if fields["learners"] else ()
        )

    def settle_tokens(self) -> None:
        """Gives the placeholders that have no id the first free ones past the vocabulary."""
        size = self.text_config.vocab_size
        others = [one.get("token_id") for one in self.other_senses.values()]
        if self.image_token_id is None and self.vision_config is not None:
            taken = [one for one in others if isinstance(one, int)]
            self.image_token_id = size if size not in taken else max(taken) + 1
        ids = [self.image_token_id, *others]
        free = max([size - 1, *(one for one in ids if isinstance(one, int))]) + 1
        for name, fields in self.other_senses.items():
            if fields.get("token_id") is None:
                self.change_sense(name, token_id=free)
                free += 1

    @property
    def gate_options(self) -> dict[str, Any]:
        """Keywords of the adapters' `wings.layers.router.AttendedRouter`."""
        return {
            "shape": self.gate_shape,
            "detach": self.gate_detach,
            "power": self.gate_power,
        }

    @property
    def adapters(self) -> LoraOptions | None:
        """The options of the adapters; None without any."""
        return None if self.lora is None else LoraOptions.of(self.lora)

    @property
    def kinds_of_adapters(self) -> tuple[int, ...]:
        """The kinds of the tokens that the adapters' guard and gate look for."""
        senses, adapters = self.senses, self.adapters
        named = None if adapters is None else adapters.senses
        return tuple(senses[name].kind for name in (named or senses))

    @property
    def layers_with_learners(self) -> tuple[int, ...]:
        """Indices of the blocks with learners of any sense, in order."""
        return tuple(sorted({layer for one in self.senses.values() for layer in one.layers}))

    @property
    def is_routed(self) -> bool:
        """Blocks have a router of some sense."""
        return any(sense.is_routed for sense in self.senses.values())

    @property
    def position_limit(self) -> int | None:
        """The fewest positions that a position router knows; None without one."""
        known = [
            sense.router_positions
            for sense in self.senses.values()
            if sense.is_routed and sense.router == "position"
        ]
        return min(known, default=None)

    @property
    def layers_with_prefix(self) -> tuple[int, ...]:
        """Indices of the blocks with a prefix, in order."""
        if not self.prefix_length:
            return ()
        if self.learner_layers is None:
            return tuple(range(self.text_config.num_hidden_layers))
        return tuple(sorted(self.learner_layers))

    @property
    def layers_with_wings(self) -> tuple[int, ...]:
        """Indices of the blocks whose attention has learners, a prefix or the adapters' gate."""
        gated = () if self.adapters is None else self.adapters.gate_layers
        return tuple(sorted({*self.layers_with_learners, *self.layers_with_prefix, *gated}))

    @classmethod
    def _foreign(cls, fields: dict[str, Any]) -> list[str]:
        """Lists the keys that neither Wings nor transformers has.

        A key that is close to a field which is missing is mistyped.
        """
        all_own = {field.name for field in dataclasses.fields(cls)}
        known = all_own | keys_of_transformers() | NO_FIELDS
        foreign = [name for name in fields if name not in known]
        missing = vars(cls)["__annotations__"].keys() & all_own - fields.keys()
        for name in foreign:
            if near := nearest(name, missing):
                raise WingsError(f"WingsConfig has no field '{name}'{near}; remove or rename it.")
            if hasattr(cls, name):
                raise WingsError(
                    f"config.json sets '{name}', which follows from other fields: remove it."
                )
        return foreign

    def _validate_names(self, kwargs: dict[str, Any]) -> None:
        own = {field.name for field in dataclasses.fields(type(self))}
        theirs = keys_of_transformers() | NO_FIELDS
        for name in kwargs:
            if name not in own | theirs:
                raise WingsError(
                    f"WingsConfig has no field '{name}'{nearest(name, own)}; remove or rename it."
                )

    def _validate_shape(self, sense: Sense, where: str) -> None:
        width, blocks = self.hidden_size, self.text_config.num_hidden_layers
        if not 1 <= sense.rank <= width:
            raise WingsError(
                f"{where}rank is {sense.rank}, but must be between 1 and the decoder's width "
                f"{width}."
            )
        given = self.learner_layers if not where else sense.layers
        outside = [i for i in given or () if not 0 <= i < blocks]
        if outside:
            raise WingsError(
                f"{where}learner_layers names block {outside[0]}, but the decoder has blocks 0 to "
                f"{blocks - 1}."
            )

    def _validate_values(self) -> None:
        for name in CHECKS:
            validate_field(name, getattr(self, name, None))
        validate_senses(self.other_senses)

    def validate(self) -> None:
        """Raises a `WingsError` for the first bad field."""
        self._validate_values()
        width = self.hidden_size
        for name, sense in self.senses.items():
            self._validate_shape(sense, "" if name == IMAGE else f"other_senses[{name!r}].")
        ids = [sense.token_id for sense in self.senses.values()]
        if len(set(ids)) < len(ids):
            raise WingsError(
                f"The placeholders of two senses have one token id ({', '.join(map(str, ids))}): "
                f"give each its own."
            )
        if self.lora is not None:
            for name in LoraOptions.of(self.lora).senses or ():
                if name not in self.senses:
                    raise WingsError(
                        f"lora.senses names {shown(name)}, but the model has the senses "
                        f"{', '.join(self.senses)}."
                    )
        if width % 2:
            raise WingsError(
                f"the decoder's width {width} is odd, so rotary heads cannot divide it."
            )


def _decoder_config(fields: dict[str, Any]) -> PreTrainedConfig:
    if "model_type" not in fields:
        raise WingsError("text_config has no model_type: say which decoder it describes.")
    try:
        return AutoConfig.for_model(**fields)
    # Every family validates its fields in its own way.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise WingsError(
            f"text_config describes no {shown(fields['model_type'])} decoder ({reason})."
        ) from error


AutoConfig.register("wings", WingsConfig, exist_ok=True)
