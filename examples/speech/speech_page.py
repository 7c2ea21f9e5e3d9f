"""The Markdown page of `wings speech`."""

from typing import Any

from wings.examples.emoji.emoji_page import cell, shorten
from wings.examples.pages import join_parts, markdown_table
from wings.examples.run_record import in_words

MODELS = {
    "llm": "the LLM, same question, no sound",
    "silence": "Wings, silence in place of the sound",
    "wings": "Wings",
    "words": "the LLM, the sound's words in the question",
}
QUESTIONS = {
    "word": "says the word that it hears",
    "sum": "adds two numbers that it hears",
    "question": "answers a question that it hears",
    "text": "written question alone",
    "mixed": "written question after a sound",
}
SUBJECT = (
    "SmolLM2-135M-Instruct (Apache-2.0) hears through the encoder of Whisper base (MIT), both from"
    " ordinary Python packages and both frozen. Projector and learners are trained on English that"
    " eSpeak NG says in 18 voices, with noise. All sounds of the test are in five other voices,"
    " four of them in other accents. The words of the test are trained on; its sums and questions"
    " are not."
)
SCORING = (
    "Percent, in brackets the 95% interval that the number of questions leaves; one seed. An answer"
    " is right if it mentions the reference. The last row reads the words of the sound in the"
    ' question (`You hear "four plus five". What is the sum?`): what a perfect ear would give this'
    " LLM without training. Training also teaches the form of the answers, so it can be exceeded."
)


def speech_page(results: dict[str, Any]) -> str:
    """The page of the results that `speech_run.run_all` returns."""
    bitwise, after = (
        f"{score['right']} of {score['of']}"
        for score in (
            results["text logits bitwise equal"],
            results["answers after a sound equal the LLM's alone"],
        )
    )
    rows = [
        [label, *(cell(results["scores"][model].get(kind)) for kind in QUESTIONS)]
        for model, label in MODELS.items()
    ]
    samples = [
        [kind, shorten(sample["heard"]), shorten(sample["answer"]), sample["reference"]]
        for kind, of_kind in results["samples"].items()
        for sample in of_kind
    ]
    return join_parts(
        (
            "# SmolLM2-135M-Instruct hears speech",
            SUBJECT,
            in_words(results),
            markdown_table(["", *QUESTIONS.values()], rows),
            SCORING,
            f"**Text.** {bitwise} written questions give bitwise the logits of the untouched LLM."
            f" After a sound, {after} answers to written questions are word for word what the"
            " untouched LLM says to the question alone.",
            "## Some answers",
            markdown_table(["", "sound and question", "answer", "reference"], samples),
            "## Cost",
            markdown_table(["part", "seconds"], results["seconds"].items()),
            f"Steps: {results['steps']}. Last loss: {results['last loss']}. Records:"
            f" {results['records']}.",
        )
    )
