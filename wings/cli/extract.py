"""`wings extract`: saves the language model of a checkpoint as a checkpoint of its own."""

from pathlib import Path

from transformers.utils import logging

from wings.config import WingsConfig
from wings.model.causal_lm import WingsForCausalLM
from wings.model.checkpoint import validate_is_wings
from wings.model.language_model import save_language_model
from wings.output_folder import OutputFolder
from wings.processing.processor import WingsProcessor
from wings.saved_files import reading

from .new_checkpoint import CONFIG, validate_new_checkpoint

# `WingsConfig.llm_trained` in words.
TRAINED = {None: "", False: ", as before training", True: ", as trained"}


def extract(checkpoint: str, output: Path) -> None:
    """Saves the language model of a checkpoint.

    Args:
        checkpoint: folder or Hub id of a Wings checkpoint.
        output: a new folder.

    Raises:
        WingsError: no Wings checkpoint, or a folder that is in use.
    """
    target = OutputFolder(output, "wings extract")
    validate_new_checkpoint(target)
    logging.disable_progress_bar()
    with reading(checkpoint, "Wings checkpoint"):
        validate_is_wings(checkpoint, {})
        config = WingsConfig.from_pretrained(checkpoint)
    # Loading a model replaces it by the dtype of the whole.
    own_dtype = config.text_config.dtype
    # A configuration converts names to dtypes.
    assert not isinstance(own_dtype, str)
    processor = WingsProcessor.from_pretrained(checkpoint)
    model = WingsForCausalLM.from_pretrained(checkpoint)
    with target.locked():
        draft = target.draft("model")
        language_model = save_language_model(model, processor, draft, own_dtype)
        target.place(draft, last=CONFIG)
    dtype = str(language_model.dtype).removeprefix("torch.")
    print(
        f"{output}: {type(language_model).__name__}, {language_model.num_parameters():,} weights in"
        f" {dtype}, with its tokenizer{TRAINED[config.llm_trained]}; use it with"
        f" pipeline('text-generation', '{output}')."
    )
