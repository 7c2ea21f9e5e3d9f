"""`wings compose`: puts senses that were trained apart on one language model."""

from collections.abc import Sequence
from pathlib import Path

from transformers.utils import logging

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.model.checkpoint import validate_is_wings
from wings.model.compose import language_tensors, same_bits, use_processor
from wings.model.learners_only import is_learners_only, tensors_of_llm
from wings.model.load_causal_lm import load_causal_lm
from wings.output_folder import OutputFolder
from wings.processing.processor import WingsProcessor

from .new_checkpoint import CONFIG, validate_new_checkpoint


def compose(llm: str, checkpoints: Sequence[str], output: Path, rule: str) -> None:
    """Composes Wings checkpoints that were trained apart on one frozen language model.

    Args:
        llm: folder or Hub id of the language model.
        checkpoints: folders or Hub ids, two or more; learners alone too.
        output: a new folder.
        rule: how senses share a token that can see items of several.

    Raises:
        WingsError: checkpoints of another language model, without a guard, with another tokenizer
            or with one sense twice; or a folder that is in use.
    """
    target = OutputFolder(output, "wings compose")
    validate_new_checkpoint(target)
    logging.disable_progress_bar()
    if len(checkpoints) < 2:
        raise WingsError(f"Only {checkpoints[0]} was given: give two or more checkpoints.")
    models = []
    for source in checkpoints:
        fields = validate_is_wings(source, {})
        given = {"text": llm} if is_learners_only(fields) else {}
        models.append(WingsForCausalLM.from_pretrained(source, **given))
    processors = [WingsProcessor.from_pretrained(source) for source in checkpoints]
    validate_is_of(models[0], llm, checkpoints[0])
    model = WingsForCausalLM.compose(*models, rule=rule)
    processor = WingsProcessor.compose(*processors)
    use_processor(model, processor)
    with target.locked():
        draft = target.draft("model")
        processor.save_pretrained(draft)
        model.save_pretrained(draft)
        target.place(draft, last=CONFIG)
    senses = " and ".join(model.config.senses)
    print(f"{output}: {senses} on {llm}, whose text is as before, to the last bit; rule {rule}.")


def validate_is_of(model: WingsForCausalLM, llm: str, source: str) -> None:
    """Raises a `WingsError` if the language model of a checkpoint is not `llm`, bit by bit."""
    expected = tensors_of_llm(load_causal_lm(llm, model.dtype))
    found = language_tensors(model)
    changed = sorted(
        name
        for name in {*expected, *found}
        if name not in expected or name not in found or not same_bits(expected[name], found[name])
    )
    if changed:
        raise WingsError(
            f"The language model of '{source}' is not '{llm}': the tensor '{changed[0]}' differs; "
            f"name the one that it was trained on, or a checkpoint whose language model was frozen."
        )
