"""`wings export`: makes a checkpoint load where this package is not installed."""

import shutil
from pathlib import Path

from transformers.utils import logging

from wings.config import WingsConfig
from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.model.checkpoint import validate_is_wings
from wings.model.flat_code import flat_files
from wings.output_folder import OutputFolder
from wings.saved_code import add_to_folder
from wings.saved_files import reading
from wings.sharing.shared_files import LARGE, files_of, fits

from .new_checkpoint import CONFIG, validate_new_checkpoint


def export(checkpoint: Path, output: Path | None, learners_only: bool = False) -> None:
    """Adds a copy of the model code to a checkpoint.

    Args:
        checkpoint: folder of a Wings checkpoint.
        output: a new folder for a copy of the checkpoint; without one, code is added in place.
        learners_only: the copy names the language model and the tower in place of having them.

    Raises:
        WingsError: no Wings checkpoint, a folder that is in use, or a trained language model.
    """
    if learners_only and output is None:
        raise WingsError("--learners-only writes another checkpoint: give its folder as OUTPUT.")
    checkpoint = checkpoint.expanduser()
    target = None if output is None else OutputFolder(output, "wings export", "OUTPUT")
    if target is not None:
        validate_new_checkpoint(target)
    if not checkpoint.is_dir():
        raise WingsError(
            f"There is no folder '{checkpoint}': name the folder of a checkpoint; one on the Hub is"
            f" downloaded by hf download OWNER/NAME --local-dir FOLDER."
        )
    with reading(checkpoint, "Wings checkpoint"):
        validate_is_wings(checkpoint, {})
        WingsConfig.from_pretrained(checkpoint)
    files = flat_files()
    if target is None:
        add_to_folder(checkpoint, files)
    else:
        is_new = not target.path.exists()
        with target.locked():
            try:
                draft = target.draft("model")
                _copy(checkpoint, draft, learners_only)
                add_to_folder(draft, files)
                target.place(draft, last=CONFIG)
            except BaseException:
                target.remove(with_folder=is_new)
                raise
    print(
        f"{output or checkpoint}: {len(files)} files of code, so it loads with"
        " trust_remote_code=True where torch, transformers and open_clip are installed."
    )


def _copy(checkpoint: Path, draft: Path, learners_only: bool) -> None:
    """Copies the files of a checkpoint, or saves its learners in place of the whole model."""
    if learners_only:
        logging.disable_progress_bar()
        WingsForCausalLM.from_pretrained(checkpoint).save_pretrained(draft, learners_only=True)
    for path in files_of(checkpoint):
        if learners_only and (path.name == CONFIG or fits(path.name, LARGE)):
            continue
        copy = draft / path.relative_to(checkpoint)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
