"""The Auto classes of models, and the tables of names that programs look a model up in."""

import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from .contract import Contract

# The Auto classes that give a model with an output head.
WITH_HEAD = ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")
# Names of classes by model_type. `transformers serve` reads them and not what is registered.
TABLES = ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES")
LANGUAGE_MODELS = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"


def register_model(
    config_class: type[PreTrainedConfig],
    base_class: type[PreTrainedModel],
    class_with_head: type[PreTrainedModel],
) -> None:
    """Makes a model known to the Auto classes and pipelines of transformers.

    Args:
        config_class: of the model.
        base_class: what `AutoModel` gives, without an output head.
        class_with_head: what all of `WITH_HEAD` give.
    """
    transformers.AutoModel.register(config_class, base_class, exist_ok=True)
    for name in WITH_HEAD:
        getattr(transformers, name).register(config_class, class_with_head, exist_ok=True)


def name_for_servers(model_type: str, class_name: str) -> None:
    """Enters a model of images and text in the tables that `transformers serve` reads."""
    for table in TABLES:
        getattr(modeling_auto, table)[model_type] = class_name


def reads_images_and_text(model_type: str) -> bool:
    """True if `AutoModelForImageTextToText` knows a model of this type; nothing is imported."""
    return model_type in getattr(modeling_auto, TABLES[0])


def is_language_model(model_type: str) -> bool:
    """True if `AutoModelForCausalLM` comes with a model of this type; nothing is imported."""
    return model_type in getattr(modeling_auto, LANGUAGE_MODELS)


def _check_tables() -> None:
    """An entry of a table whose configuration is only registered does not disturb its mapping."""
    for table in TABLES:
        names = getattr(modeling_auto, table)
        mapping = getattr(modeling_auto, table.removesuffix("_NAMES"))
        before = len(mapping)
        names["wings_contract"] = "WingsContract"
        try:
            assert reads_images_and_text("llava") and not reads_images_and_text("llama")
            assert is_language_model("llama") and not is_language_model("llava")
            assert len(mapping) == before and mapping.keys(), f"{table} wants a class it can import"
        finally:
            del names["wings_contract"]


CONTRACTS = (
    Contract(
        "transformers",
        "5.17",
        "transformers serve takes a model for one of images and text whose model_type and class "
        "name are in two tables of modeling_auto, and loads it by AutoModelForMultimodalLM; the "
        "first of them has the types that AutoModelForImageTextToText knows, and another one those "
        "of AutoModelForCausalLM",
        (
            *(
                f"transformers.models.auto.modeling_auto:{table}"
                for table in (*TABLES, LANGUAGE_MODELS)
            ),
            *(
                f"transformers.models.auto.modeling_auto:{name}.register"
                "(config_class, model_class, exist_ok)"
                for name in ("AutoModel", *WITH_HEAD)
            ),
        ),
        check=_check_tables,
    ),
)
