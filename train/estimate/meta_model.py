"""Builds the model of a recipe on the meta device, from configurations alone."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig

from wings.config import WingsConfig
from wings.encoders.audio_config import canonical_audio_config
from wings.encoders.tower_config import canonical_config
from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.sense import IMAGE
from wings.train.build import added_senses, fresh_options, later_options, names_of
from wings.train.distributed import blocks_of
from wings.train.recipe import Recipe
from wings.train.start import maker_of, validate_available
from wings.upstream.gguf import place_of


@dataclass
class ModelSpec:
    """Configuration of a recipe's model.

    Attributes:
        config: configuration of the model that the recipe trains.
        dtype: dtype of its initial weights.
        note: a sentence if they come from another place than the recipe names.
    """

    config: WingsConfig
    dtype: torch.dtype
    note: str | None = None

    @classmethod
    def of(cls, recipe: Recipe, file: Path | None = None) -> "ModelSpec":
        """Read the configurations that a recipe names, without weights.

        Args:
            recipe: uses its `model` or its `start`. If no run has written `start` yet, the recipe
                next to `file` that will write it is read instead.
            file: file of the recipe.

        Raises:
            WingsError: a configuration is unavailable.
        """
        if recipe.start is None:
            names, options = names_of(recipe), fresh_options(recipe)
            assert names.text is not None
            text, fields = _text_config(names.text), options.pop("senses", {})
            config = WingsConfig(
                text_config=text,
                vision_config=None if names.vision is None else canonical_config(names.vision),
                other_senses=_with_encoders(recipe, fields),
                **options,
            )
            return cls(config, _dtype(text))
        maker = maker_of(recipe.start, file)
        if maker is not None:
            before = cls.of(Recipe.from_yaml(maker), maker)
            config, dtype = before.config, before.dtype
            note = (
                f"{recipe.start} does not exist yet: using the model that {maker.name} will write."
            )
        else:
            config = WingsConfig.from_pretrained(validate_available(recipe.start))
            dtype, note = _dtype(config.text_config), None
        options = later_options(recipe, config, recipe.start)
        for name, changes in options.pop("other_senses", {}).items():
            config.change_sense(name, **changes)
        fields = {**config.to_dict(), **options}
        fields.pop("model_type")
        config = WingsConfig(**fields)
        added = _with_encoders(recipe, added_senses(recipe))
        if IMAGE in added:
            of_image = added.pop(IMAGE)
            encoder = canonical_config(of_image.pop("encoder"))
            config.change_sense(IMAGE, **of_image, encoder=encoder)
        config.other_senses = {**config.other_senses, **added}
        config.settle_tokens()
        config.validate()
        return cls(config, dtype, note)

    def build(self, blocks: int | None = None) -> WingsForCausalLM:
        """The model on the meta device, or one like it with fewer blocks."""
        config = copy.deepcopy(self.config)
        if blocks is not None:
            text = config.text_config
            kinds = text.to_dict().get("layer_types")
            text.num_hidden_layers = blocks
            if kinds:
                text.layer_types = kinds[:blocks]
            for name in config.senses:
                config.change_sense(name, learner_layers=None)
        with torch.device("meta"):
            return WingsForCausalLM(config)


def _with_encoders(recipe: Recipe, senses: Mapping[str, Mapping[str, Any]]) -> dict[str, dict]:
    """Fields of fresh senses with the configurations of the encoders that `model` names."""
    assert recipe.model is not None or not senses
    sources: Any = recipe.model.encoders if recipe.model else {}
    return {
        name: {
            **fields,
            "encoder": sources[name] if name == IMAGE else canonical_audio_config(sources[name]),
        }
        for name, fields in senses.items()
    }


def all_alike(model: WingsForCausalLM) -> bool:
    """True if all blocks have the same tensors and the same kind of attention."""
    shapes = {
        tuple((name, p.shape) for name, p in block.named_parameters()) for block in blocks_of(model)
    }
    kinds = model.config.text_config.to_dict().get("layer_types") or ()
    return len(shapes) == 1 and len(set(kinds)) <= 1


def _text_config(text: str) -> PreTrainedConfig:
    try:
        place, file = place_of(text)
        return AutoConfig.from_pretrained(place, **file)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WingsError(
            f"model.text: the configuration of {text} is unavailable ({reason}); put its"
            " config.json into a folder and pass model.text=FOLDER."
        ) from None


def _dtype(text: PreTrainedConfig) -> torch.dtype:
    # A configuration converts names to dtypes.
    assert not isinstance(text.dtype, str)
    return text.dtype or torch.float32
