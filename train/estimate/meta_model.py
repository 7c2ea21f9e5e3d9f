"""The model of a recipe without its weights: from configurations alone, on the meta device."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from wings.config import WingsConfig
from wings.encoders.tower_config import canonical_config
from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.train.build import checkpoint_of, fresh_options, later_options
from wings.train.recipe import Recipe


@dataclass
class Origin:
    """What a recipe's model is made of.

    Attributes:
        config: of the model that the recipe trains.
        dtype: of the weights that it begins with.
        note: a sentence where they were taken from somewhere else than the recipe says.
    """

    config: WingsConfig
    dtype: torch.dtype
    note: str | None = None

    @classmethod
    def of(cls, recipe: Recipe, file: Path | None = None) -> "Origin":
        """Read the configurations that a recipe names; no weights are needed, nor read.

        Args:
            recipe: its `model` or its `start`. A checkpoint that no run has made yet is taken from
                the recipe beside `file` that will make it.
            file: where the recipe stands.

        Raises:
            WingsError: a configuration that cannot be had.
        """
        if recipe.model is not None:
            vision = canonical_config(recipe.model.vision)
            text = _text_config(recipe.model.text)
            options = fresh_options(recipe)
            return cls(WingsConfig(text_config=text, vision_config=vision, **options), _dtype(text))
        if recipe.start is None:
            raise WingsError("the recipe names neither model (vision, text) nor start.")
        maker = _maker(recipe.start, file)
        if maker is not None:
            before = cls.of(Recipe.from_yaml(maker), maker)
            config, dtype = before.config, before.dtype
            note = f"{recipe.start} is not there yet: its model is the one that {maker.name} makes"
        else:
            config = WingsConfig.from_pretrained(_checkpoint(recipe.start))
            dtype, note = _dtype(config.text_config), None
        fields = {**config.to_dict(), **later_options(recipe, config, recipe.start)}
        fields.pop("model_type")
        return cls(WingsConfig(**fields), dtype, note)

    def build(self, blocks: int | None = None) -> WingsForCausalLM:
        """The model on the meta device, or one like it with fewer blocks."""
        config = copy.deepcopy(self.config)
        if blocks is not None:
            text = config.text_config
            kinds = text.to_dict().get("layer_types")
            text.num_hidden_layers = blocks
            if kinds:
                text.layer_types = kinds[:blocks]
            config.learner_layers = None
        with torch.device("meta"):
            return WingsForCausalLM(config)


def blocks_of(model: WingsForCausalLM) -> list[nn.Module]:
    """The decoder's blocks; the outermost list of as many modules as it has blocks.

    Raises:
        WingsError: there is no such list.
    """
    decoder = model.model.language_model
    count = decoder.config.num_hidden_layers
    for module in decoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise WingsError(f"{type(decoder).__name__} keeps its {count} blocks in no list.")


def all_alike(model: WingsForCausalLM) -> bool:
    """Whether every block has the same tensors and the same kind of attention."""
    shapes = {
        tuple((name, p.shape) for name, p in block.named_parameters()) for block in blocks_of(model)
    }
    kinds = model.config.text_config.to_dict().get("layer_types") or ()
    return len(shapes) == 1 and len(set(kinds)) <= 1


def _text_config(text: str) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(text)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WingsError(
            f"model.text: the configuration of {text} cannot be had ({reason}); put its config.json"
            " into a folder and give model.text=FOLDER."
        ) from None


def _checkpoint(start: str) -> str:
    try:
        return checkpoint_of(start)
    except WingsError as error:
        more = "; to plan without it give start= model.vision=NAME model.text=NAME."
        raise WingsError(str(error).rstrip(".") + more) from None


def _dtype(text: PreTrainedConfig) -> torch.dtype:
    # A configuration makes a type of a name.
    assert not isinstance(text.dtype, str)
    return text.dtype or torch.float32


def _maker(start: str, file: Path | None) -> Path | None:
    if file is None or Path(start).expanduser().is_dir():
        return None
    for path in sorted(file.parent.glob("*.yaml")):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(values, dict) and values.get("output") == start and path != file:
            return path
    return None
