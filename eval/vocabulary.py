"""Whether two tokenizers read a text alike: only then are next tokens the same thing to both."""

from transformers import PreTrainedTokenizerBase

SAMPLE = "Two  words, 12 numbers: 3.14 + x_1?\n\tÄußerst naïve 你好 …"


def tokenizers_differ(llm: PreTrainedTokenizerBase, model: PreTrainedTokenizerBase) -> str | None:
    """What two tokenizers disagree on, in a few words; None where they agree.

    Tokens that the model's has beside the LLM's do not matter if they were added to it (as
    `<image>`): the LLM's tokenizer reads the text.
    """
    known, theirs = llm.get_vocab(), model.get_vocab()
    # A token of the model's alone stands last: an addition is passed over.
    own = theirs.keys() - known.keys() - model.get_added_vocab().keys()
    for token in [*known, *sorted(own)]:
        if known.get(token) != theirs.get(token):
            numbers = (known.get(token, "none"), theirs.get(token, "none"))
            return f"{token!r} is token {numbers[0]} of one and {numbers[1]} of the other"
    if llm(SAMPLE).input_ids != model(SAMPLE).input_ids:
        return f"they cut {SAMPLE!r} differently"
    return None
