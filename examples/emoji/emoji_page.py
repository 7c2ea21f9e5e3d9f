"""The Markdown page of `wings emoji`."""

from wings.examples.pages import join_parts, markdown_table, with_interval
from wings.examples.run_record import in_words

MODELS = {
    "llm": "the LLM, same question, no picture",
    "wings, blank picture": "Wings, blank picture",
    "wings": "Wings",
}
QUESTIONS = {
    "name": "names a new rendering of a drawing it has seen",
    "group": "says the group of a drawing it never saw",
    "text": "text question alone",
    "mixed": "text question after a picture",
}
SUBJECT = (
    "SmolLM2-135M-Instruct (Apache-2.0) and a DINOv2 ViT-S/14 (Apache-2.0), both taken from "
    "ordinary Python packages, both frozen; projector and learners are trained on renderings of "
    "OpenMoji drawings (openmoji.org, CC BY-SA 4.0; none is part of this repository)."
)
SCORING = (
    "Percent, in brackets the 95% interval that the number of questions leaves. An answer counts "
    "if it contains the reference; for groups, if the first group that it names is the right one. "
    "Without a picture all questions about pictures read the same, so the LLM gives one answer to "
    "all of them."
)


def emoji_page(results: dict) -> str:
    """The page of the results that `emoji_run.run_all` returns."""
    bitwise, unchanged = (
        f"{score['right']} of {score['of']}"
        for score in (
            results["text logits bitwise equal"],
            results["mixed answer equals the LLM's alone"],
        )
    )
    confusions = ", ".join(f"{pair} ({count})" for pair, count in results["confusions"])
    return join_parts(
        (
            "# SmolLM2-135M-Instruct reads drawings",
            SUBJECT,
            in_words(results),
            main_table(results),
            SCORING,
            f"**Text.** {bitwise} text prompts give bitwise the logits of the untouched LLM. After "
            f"a picture, {unchanged} answers to text questions are word for word what the untouched"
            " LLM says to the question alone.",
            "## Groups of drawings it never saw",
            group_table(results["scores"]["wings"]),
            f"Most frequent confusions (right group -> answer): {confusions}.",
            "## Some answers",
            sample_table(results["samples"]),
            "## What it took",
            markdown_table(["part", "seconds"], results["seconds"].items()),
            f"Steps: {results['steps']}. Last loss: {results['last loss']}. "
            f"Records: {results['records']}.",
        )
    )


def main_table(results: dict) -> str:
    """Rows of models and baselines, columns of questions."""
    rows = [
        [label, *(cell(results["scores"][model].get(kind)) for kind in QUESTIONS)]
        for model, label in MODELS.items()
    ]
    chance = results["chance"]
    rows.append(["chance", f"{chance['name']:.1f}", f"{chance['group']:.1f}", "", ""])
    rows.append(["the most frequent group", "", cell(results["most frequent"]["group"]), "", ""])
    return markdown_table(["", *QUESTIONS.values()], rows)


def group_table(scores: dict) -> str:
    """Right answers of each group."""
    rows = [
        [kind.partition("/")[2], score["right"], score["of"]]
        for kind, score in scores.items()
        if kind.startswith("group/")
    ]
    return markdown_table(["group", "right", "of"], rows)


def sample_table(samples: dict) -> str:
    """A few answers of each kind, picked at equal distances."""
    rows = []
    for kind in QUESTIONS:
        for sample in samples[kind]:
            question, answer = shorten(sample["asked"]), shorten(sample["said"])
            rows.append([kind, sample["picture"] or "", question, answer, sample["right answer"]])
    return markdown_table(["", "picture", "question", "answer", "reference"], rows)


def cell(score: dict | None) -> str:
    """Percent with its interval, or an empty string."""
    return "" if score is None else with_interval(score["percent"], *score["interval"])


def shorten(text: str, width: int = 90) -> str:
    """One line that fits a table."""
    line = " ".join(text.replace("|", "/").split())
    return line if len(line) <= width else line[: width - 1] + "…"
