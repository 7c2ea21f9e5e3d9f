"""Fields of `TrainingArguments` that have other names, or no name, in some releases."""

from dataclasses import fields

from transformers import TrainingArguments

from .contract import Contract

# The names of one field: since transformers 5.24, and before.
_CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing")


def set_checkpointing(arguments: TrainingArguments, enable: bool) -> None:
    """Sets whether blocks are recomputed in the backward pass."""
    known = {field.name for field in fields(TrainingArguments)}
    setattr(arguments, next(name for name in _CHECKPOINTING if name in known), enable)


def use_one_device(arguments: TrainingArguments) -> None:
    """Keeps one process on one GPU; DataParallel would separate images from their rows."""
    arguments._n_gpu = min(arguments.n_gpu, 1)


def _check_arguments() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(output_dir=folder, use_cpu=True, report_to="none")
    arguments._n_gpu = 3
    assert arguments.n_gpu == 3, "n_gpu does not read _n_gpu"
    use_one_device(arguments)
    assert arguments.n_gpu == 1
    known = {field.name for field in fields(TrainingArguments)}
    assert known & set(_CHECKPOINTING), "no field switches gradient checkpointing"


CONTRACTS = (
    Contract(
        "transformers",
        "5.17",
        "TrainingArguments has a field activation_checkpointing or gradient_checkpointing, and "
        "_n_gpu is the number of GPUs that DataParallel would use",
        ("transformers:TrainingArguments.n_gpu",),
        check=_check_arguments,
    ),
)
