"""Keys that `PreTrainedConfig` adds to a configuration, and the reading of config.json."""

import os
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from .contract import Contract
from .gguf import place_of

# Keys that transformers passes to any configuration, in addition to its base class's fields.
_BESIDE_FIELDS = {
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation_internal",
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "eos_token_id",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "pad_token_id",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


def keys_of_transformers() -> set[str]:
    """Lists the keys that transformers may pass to a configuration without being fields of it."""
    return set(PreTrainedConfig().to_dict()) | _BESIDE_FIELDS


def read_config_dict(source: str | os.PathLike, **hub: Any) -> dict[str, object]:
    """Reads the fields of `config.json` in a folder or on the Hub, for any kind of model."""
    place, file = place_of(source)
    fields, _ = PreTrainedConfig.get_config_dict(place, **file, **hub)
    return fields


def _check_keys() -> None:
    import tempfile

    from transformers import LlamaConfig

    given: set[str] = set()

    class Watched(PreTrainedConfig):
        model_type = "wings_contract"
        sub_configs: ClassVar = {"text_config": AutoConfig}
        has_no_defaults_at_init = True
        text_config: dict | PreTrainedConfig | None = None

        def __post_init__(self, **kwargs: Any) -> None:
            given.update(kwargs)
            if isinstance(self.text_config, dict):
                self.text_config = AutoConfig.for_model(**self.text_config)
            super().__post_init__(**kwargs)

    with tempfile.TemporaryDirectory() as folder:
        config = Watched(text_config=LlamaConfig(hidden_size=8, num_attention_heads=1))
        config.save_pretrained(folder)
        fields = read_config_dict(folder)
        assert fields.get("model_type") == "wings_contract", "config.json does not name its kind"
        again = Watched.from_pretrained(folder)
    assert isinstance(again.text_config, LlamaConfig), "a configuration inside is not read"
    foreign = given - keys_of_transformers()
    assert not foreign, f"from_pretrained hands over keys that nobody wrote: {sorted(foreign)}"


CONTRACTS = (
    Contract(
        "transformers",
        "5.17",
        "a configuration is a dataclass whose __post_init__ gets every key that is not a field, "
        "and transformers adds to config.json only keys that are known here",
        (
            "transformers:PreTrainedConfig.get_config_dict",
            "transformers:PreTrainedConfig.to_dict",
            "transformers:AutoConfig.for_model",
        ),
        check=_check_keys,
    ),
)
