"""`WingsConfig`: one language model, one vision tower, and the learners that join them."""

import dataclasses
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from .config_fields import Settled, default
from .errors import WingsError, nearest
from .upstream.configuration import keys_of_transformers

LEARNERS = ("image", "text")
ROUTERS = ("position", "modality", "attended", None)
PROJECTORS = ("mlp2x_gelu",)


class WingsConfig(PreTrainedConfig):
    r"""Everything that decides the shape of a Wings model; a bad value is refused here.

    Args:
        text_config: the decoder's own configuration, as an object or a dict with `model_type`.
        vision_config: open_clip's fields (`model_name` or `vision_cfg`) plus `select_layer`, `pool`
            and the preprocessing; see `wings.encoders.open_clip_tower.VisionTower`.
        rank: r of every low-rank factor.
        router: `"position"` (the paper's), `"modality"` (blind to length), `"attended"` (learners
            are as loud as the block looks at pictures) or None (weight 1 each). The first two weigh
            learners against one another, so a single learner has neither.
        learners: which learners hang beside a block, of `("image", "text")`; `()` for a plain
            projector model.
        learner_layers: the blocks that carry learners and prefix; None for all.
        prefix: learned keys and values per block that every token looks at, a baseline to compare
            learners with; 0 for none. See `wings.prefix.Prefix`.
        normalize_sources: RMS-normalise the learners' source rows before keys and values.
        init_std: std of the first factors (truncated normal), or `"scaled"` for D ** -0.5.
        projector: `"mlp2x_gelu"`, two linear layers with a GELU between.
        text_guard: learners act only on tokens that can see an image; a prefix acts on all.
        image_token_id: the id that stands once per image feature; it may lie past the vocabulary.
        image_seq_length: features per image, after pooling; None until a model knows its tower.
        router_positions: positions that the position router knows.
    """

    model_type = "wings"
    # There is no decoder that another one should be compared with when only differences are saved.
    has_no_defaults_at_init = True
    sub_configs: ClassVar = {"text_config": AutoConfig}
    keys_to_ignore_at_inference: ClassVar = ["past_key_values", "cache"]

    text_config: Settled[dict | PreTrainedConfig | None, PreTrainedConfig] = default(None)
    vision_config: Settled[dict | None, dict] = default(None)
    rank: int = 64
    router: str | None = "position"
    learners: Settled[tuple | list, tuple[str, ...]] = default(LEARNERS)
    learner_layers: Settled[tuple | list | None, tuple[int, ...] | None] = default(None)
    prefix: int = 0
    normalize_sources: bool = False
    init_std: float | str = 0.02
    projector: str = "mlp2x_gelu"
    text_guard: bool = False
    image_token_id: Settled[int | None, int] = default(None)
    image_seq_length: Settled[int | None, int] = default(None)
    router_positions: int = 4096
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("text_config", "vision_config"):
            if getattr(self, name) is None:
                raise WingsError(f"{name} is missing: a Wings model needs a decoder and a tower.")
        if isinstance(self.text_config, dict):
            fields = dict(self.text_config)
            if "model_type" not in fields:
                raise WingsError("text_config has no model_type: say which decoder it describes.")
            self.text_config = AutoConfig.for_model(**fields)
        self._refuse_unknown(kwargs)
        self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)
        self.learners = tuple(self.learners)
        if self.learner_layers is not None:
            self.learner_layers = tuple(self.learner_layers)
        if self.image_token_id is None:
            self.image_token_id = self.text_config.vocab_size
        self.refuse_bad_values()
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """D, the width of the decoder."""
        return self.text_config.hidden_size

    @property
    def is_routed(self) -> bool:
        """Whether blocks hold a router: one is asked for, and there are learners enough for it."""
        fewest = 1 if self.router == "attended" else 2
        return self.router is not None and len(self.learners) >= fewest

    @property
    def layers_with_learners(self) -> tuple[int, ...]:
        """Indices of the blocks that carry learners, in order."""
        return self.layers_with_wings if self.learners else ()

    @property
    def layers_with_wings(self) -> tuple[int, ...]:
        """Indices of the blocks that carry learners or a prefix, in order."""
        if not self.learners and not self.prefix:
            return ()
        if self.learner_layers is None:
            return tuple(range(self.text_config.num_hidden_layers))
        return tuple(sorted(self.learner_layers))

    def _refuse_unknown(self, kwargs: dict[str, Any]) -> None:
        own = {field.name for field in dataclasses.fields(type(self))}
        theirs = keys_of_transformers()
        for name in kwargs:
            if name not in own | theirs:
                raise WingsError(
                    f"WingsConfig has no field '{name}'{nearest(name, own)}; remove or rename it."
                )

    def refuse_bad_values(self) -> None:
        """Raises a `WingsError` for the first field that no model can have."""
        width, blocks = self.hidden_size, self.text_config.num_hidden_layers
        if not 1 <= self.rank <= width:
            raise WingsError(
                f"rank is {self.rank}, but must lie between 1 and the decoder's width {width}."
            )
        if self.router not in ROUTERS:
            raise WingsError(
                f"router is {self.router!r}, but must be 'position', 'modality', 'attended' "
                f"or None."
            )
        unknown = [name for name in self.learners if name not in LEARNERS]
        if unknown or len(set(self.learners)) != len(self.learners):
            raise WingsError(f"learners is {self.learners}, but must name 'image' and 'text' once.")
        outside = [i for i in self.learner_layers or () if not 0 <= i < blocks]
        if outside:
            raise WingsError(
                f"learner_layers names block {outside[0]}, but the decoder has blocks 0 to "
                f"{blocks - 1}."
            )
        if isinstance(self.prefix, bool) or not isinstance(self.prefix, int) or self.prefix < 0:
            raise WingsError(
                f"prefix is {self.prefix!r}, but must be a whole number of keys, 0 for none."
            )
        if isinstance(self.init_std, str) and self.init_std != "scaled":
            raise WingsError(f"init_std is {self.init_std!r}, but must be a number or 'scaled'.")
        if not isinstance(self.init_std, str) and not self.init_std > 0:
            raise WingsError(f"init_std is {self.init_std}, but must be larger than zero.")
        if self.projector not in PROJECTORS:
            raise WingsError(f"projector is {self.projector!r}, but must be 'mlp2x_gelu'.")
        if self.router_positions < 1:
            raise WingsError(f"router_positions is {self.router_positions}, but must be positive.")
        if self.image_seq_length is not None and self.image_seq_length < 1:
            raise WingsError(f"image_seq_length is {self.image_seq_length}, but must be positive.")
        if width % 2:
            raise WingsError(
                f"the decoder's width {width} is odd, so rotary heads cannot divide it."
            )


AutoConfig.register("wings", WingsConfig)
