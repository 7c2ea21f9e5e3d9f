"""Tells from a checkpoint's configuration if its language model was ever trained."""

from typing import Any

from wings.errors import WingsError
from wings.saved_files import reading
from wings.upstream.configuration import read_config_dict


def validate_frozen_llm(checkpoint: str) -> str:
    """Checks that no run trained the language model of a checkpoint, wherever the checkpoint is.

    Returns:
        A sentence on the limits of a comparison with that language model.

    Raises:
        WingsError: a run trained it, or it is not recorded.
    """
    with reading(checkpoint, "Wings checkpoint"):
        fields = read_config_dict(checkpoint)
    trained = fields.get("llm_trained")
    if trained is False:
        return (
            f"The model is compared with the LLM inside {checkpoint}, which its training kept "
            "frozen. This shows the effect of learners and pictures. It would not show forgetting "
            "if the LLM had been trained all the same."
        )
    advice = f"name the LLM that it was built from: --against {_name_of(fields)}."
    if trained:
        raise WingsError(
            f"Training changed the LLM inside {checkpoint}, so a comparison with it would hide "
            f"forgetting; {advice}"
        )
    raise WingsError(
        f"{checkpoint} does not record if its LLM was trained (llm_trained in config.json), and a "
        f"comparison with a trained LLM would hide forgetting; {advice}"
    )


def _name_of(fields: dict[str, Any]) -> str:
    """The folder or Hub id that the language model was loaded from, as far as it is recorded."""
    text = fields.get("text_config")
    name = text.get("_name_or_path") if isinstance(text, dict) else None
    return name if isinstance(name, str) and name else "LLM"
