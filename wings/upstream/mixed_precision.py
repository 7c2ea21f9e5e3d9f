"""accelerate's conversion of outputs that were computed under autocast."""

from accelerate.utils.operations import convert_outputs_to_fp32

from .contract import Contract

__all__ = ["convert_outputs_to_fp32"]


def _check_outputs() -> None:
    import torch

    out = convert_outputs_to_fp32(lambda: {"logits": torch.ones(1, dtype=torch.bfloat16)})()
    assert out["logits"].dtype == torch.float32, "outputs stay in low precision"


CONTRACTS = (
    Contract(
        "accelerate",
        "1.13",
        "an accelerator makes outputs of a prepared model float32 with convert_outputs_to_fp32",
        (
            "accelerate.utils.operations:convert_outputs_to_fp32(model_forward)",
            "accelerate.accelerator:convert_outputs_to_fp32",
        ),
        check=_check_outputs,
    ),
)
