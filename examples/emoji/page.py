"""The page of `wings emoji`: what was measured, as Markdown."""

from collections.abc import Iterable

ROWS = {
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
WHAT = (
    "SmolLM2-135M-Instruct (Apache-2.0) and a DINOv2 ViT-S/14 (Apache-2.0), both taken from "
    "ordinary Python packages, both frozen; projector and learners are trained on renderings of "
    "OpenMoji drawings (openmoji.org, CC BY-SA 4.0; none is part of this repository)."
)
HOW = (
    "Percent, in brackets the 95% interval that the number of questions leaves. An answer counts "
    "if it contains the reference; for groups, if the first group that it names is the right one. "
    "Without a picture all questions about pictures read the same, so the LLM gives one answer to "
    "all of them."
)


def page(results: dict) -> str:
    """`results` of `wings.examples.emoji.run.emoji` as a Markdown page."""
    parts = [
        "# SmolLM2-135M-Instruct reads drawings",
        WHAT,
        made(results),
        main_table(results),
        HOW,
        "**Text.** " + text_kept(results),
        "## Groups of drawings it never saw",
        group_table(results["scores"]["wings"]),
        "Most frequent confusions (right group -> answer): "
        + ", ".join(f"{what} ({count})" for what, count in results["confusions"])
        + ".",
        "## Some answers",
        sample_table(results["samples"]),
        "## What it took",
        table(["part", "seconds"], results["seconds"].items()),
        f"Steps: {results['steps']}. Last loss: {results['last loss']}. "
        f"Records: {results['records']}.",
    ]
    return "\n\n".join(parts) + "\n"


def made(results: dict) -> str:
    """How, when and where the figures came to be."""
    machine = results["machine"]
    return (
        f"`{results['command']}`, {results['date']}, {machine['processor']}, "
        f"{machine['cores']} cores, {machine['threads']} thread(s), load average "
        f"{machine['load average at the end'][0]} at the end, torch {machine['torch']}, "
        f"transformers {machine['transformers']}."
    )


def main_table(results: dict) -> str:
    """Rows of models and baselines, columns of questions."""
    rows = [
        [label, *(cell(results["scores"][row].get(kind)) for kind in QUESTIONS)]
        for row, label in ROWS.items()
    ]
    chance = results["chance"]
    rows.append(["chance", f"{chance['name']:.1f}", f"{chance['group']:.1f}", "", ""])
    rows.append(["the most frequent group", "", cell(results["most frequent"]["group"]), "", ""])
    return table(["", *QUESTIONS.values()], rows)


def text_kept(results: dict) -> str:
    """What happened to text, in two sentences."""
    bitwise = results["text logits bitwise equal"]
    unchanged = results["mixed answer equals the LLM's alone"]
    return (
        f"{share(bitwise)} text prompts give bitwise the logits of the untouched LLM. After a "
        f"picture, {share(unchanged)} answers to text questions are word for word what the "
        "untouched LLM says to the question alone."
    )


def group_table(scores: dict) -> str:
    """Right answers of each group."""
    rows = [
        [kind.partition("/")[2], score["right"], score["of"]]
        for kind, score in scores.items()
        if kind.startswith("group/")
    ]
    return table(["group", "right", "of"], rows)


def sample_table(samples: dict) -> str:
    """A few answers of each kind, picked at equal distances."""
    rows = [
        [
            kind,
            one["picture"] or "",
            *map(shorten, (one["asked"], one["said"])),
            one["right answer"],
        ]
        for kind in QUESTIONS
        for one in samples[kind]
    ]
    return table(["", "picture", "question", "answer", "reference"], rows)


def table(head: Iterable, rows: Iterable[Iterable]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(value) for value in line) + " |" for line in lines)


def cell(score: dict | None) -> str:
    """`81.2 (75 to 86)`, or nothing."""
    if score is None:
        return ""
    low, high = score["interval"]
    return f"{score['percent']:.1f} ({low:.0f} to {high:.0f})"


def share(score: dict) -> str:
    """`46 of 46`."""
    return f"{score['right']} of {score['of']}"


def shorten(text: str, width: int = 90) -> str:
    """One line that fits a table."""
    line = " ".join(text.replace("|", "/").split())
    return line if len(line) <= width else line[: width - 1] + "…"
