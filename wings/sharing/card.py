"""The model card: README.md with metadata for the Hub, filled in from the facts of a checkpoint."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from wings import __version__

from .base_models import UNKNOWN
from .card_facts import LIBRARY, CardFacts, hub_data, lacks, model_type
from .merge_facts import Merge
from .retention import AFTER, Retention
from .stages import one_line

TEMPLATE, PLOT = "card.md.jinja", "retention.png"
HEARD = "audio-text-to-text"  # the Hub's name of questions about sounds
PIPELINE, TEXT_PIPELINE = "image-text-to-text", "text-generation"
NOUNS = {"text": "language model", "vision": "vision tower"}
# The last line of a card that was filled in; its digest tells if somebody edited the card since.
MARK = re.compile(r"\n<!-- filled in by wings ([0-9a-f]{32}) -->\n*$")


def make_card(facts: CardFacts, has_plot: bool = False) -> str:
    """The text of README.md.

    Args:
        facts: of the checkpoint.
        has_plot: `retention.png` is next to it.
    """
    body = _environment().get_template(TEMPLATE).render(_shown(facts, has_plot))
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    text = f"---\n{metadata(facts).to_yaml()}\n---\n\n{body}\n"
    # The client's own parser has to understand the metadata.
    ModelCard(text)
    return f"{text}\n<!-- filled in by wings {_digest(text)} -->\n"


def is_filled_in(text: str) -> bool:
    """True for a card that this package wrote and nobody edited."""
    found = MARK.search(text)
    return found is not None and _digest(text[: found.start()]) == found[1]


def is_placeholder(text: str) -> bool:
    """True for the card that transformers writes where there is none."""
    return "This model card has been automatically generated" in text and "[More Inf" in text


def _digest(text: str) -> str:
    return hashlib.blake2b(text.strip().encode(), digest_size=16).hexdigest()


def metadata(facts: CardFacts) -> ModelCardData:
    """The metadata for the Hub; what is not known is left out."""
    bases = [part.hub_id for part in facts.parts if part.hub_id]
    results = eval_results(facts.retention) if facts.retention else []
    licence = facts.licence if re.fullmatch(r"[a-z0-9.-]+", facts.licence) else "other"
    fields: dict[str, Any] = {
        "license": licence,
        "license_name": one_line(facts.licence) if licence != facts.licence else None,
        "library_name": facts.library,
        "pipeline_tag": PIPELINE if facts.reads_images else TEXT_PIPELINE,
        "base_model": bases or None,
        "datasets": hub_data(facts.stages) or None,
        "tags": tags_of(facts),
    }
    if bases and not facts.is_wings:
        fields["base_model_relation"] = "merge"
    if results:
        fields |= {"model_name": facts.name.rpartition("/")[2], "eval_results": results}
    return ModelCardData(**fields)


def tags_of(facts: CardFacts) -> list[str]:
    """The tags of the card, each once."""
    known = {
        "wings": facts.is_wings,
        LIBRARY: True,
        "vision": facts.reads_images,
        "merge": facts.merge is not None,
    }
    return list(dict.fromkeys([*(tag for tag, holds in known.items() if holds), *facts.tags]))


def eval_results(retention: Retention) -> list[EvalResult]:
    """The figures of the retention table for the Hub's `model-index`."""
    results = []
    for row in retention.rows:
        if row.key == "alone":
            continue
        kind = "conversations" if row.key in AFTER else None
        kind = row.key if row.key in ("text", "pictures", "sounds") else kind
        names = retention.files.get(kind or "", row.key)
        is_text = kind is None or kind == "text"
        is_heard = row.key.endswith(("audio", "sounds"))
        results.append(
            EvalResult(
                task_type="text-generation" if is_text else HEARD if is_heard else PIPELINE,
                task_name=row.title,
                dataset_type=re.sub(r"[^\w.-]+", "-", names).strip("-") or "not-recorded",
                dataset_name=names,
                dataset_args={"questions": row.after.total},
                metric_type="accuracy",
                metric_name="percent answered",
                metric_value=round(row.after.percent, 2),
            )
        )
    return results


def _shown(facts: CardFacts, has_plot: bool) -> Mapping[str, Any]:
    config = facts.config
    trained = {"True": "trained", "False": "frozen"}.get(str(config.get("llm_trained")), UNKNOWN)
    return {
        **vars(facts),
        "title": one_line(facts.name.rpartition("/")[2]),
        "kind": model_type(config),
        "is_wings": facts.is_wings,
        "total": facts.total,
        "stage_keys": list(dict.fromkeys(key for stage in facts.stages for key in stage.rows)),
        "trained": trained,
        "lacking": [NOUNS[part] for part in lacks(config) if part in NOUNS],
        "exact": trained == "frozen" and not acts_on_text(config),
        "form": learner_form(config),
        "has_learners": bool(config.get("learners")),
        "saved_by": saved_by(config, facts.merge),
        "measured": [row.key for row in facts.retention.rows] if facts.retention else [],
        "plot": PLOT if has_plot else None,
        "package_version": __version__,
    }


def acts_on_text(config: Mapping[str, Any]) -> bool:
    """True for a model in which learners, a prefix or adapters act on text without an image."""
    lora = config.get("lora") or {"guard": True}
    has_free_learners = config.get("learners") and not config.get("text_guard")
    return bool(has_free_learners or config.get("prefix_length") or not lora.get("guard"))


def learner_form(config: Mapping[str, Any]) -> str:
    """The fields of config.json that say how learners are built, in words."""
    if not config.get("learners"):
        return "none"
    layers = config.get("learner_layers")
    where = "in every block" if layers is None else f"in blocks {', '.join(map(str, layers))}"
    return (
        f"{', '.join(config['learners'])}; rank {config.get('rank')}, {where};"
        f" router {config.get('router')}; text guard {'on' if config.get('text_guard') else 'off'}"
    )


def saved_by(config: Mapping[str, Any], merge: Merge | None) -> str:
    """The releases that wrote the folder, as far as config.json and merged.json tell."""
    own = merge.release if merge else config.get("wings_version")
    versions = [f"{LIBRARY} {own or '(release not recorded)'}"]
    if other := config.get("transformers_version"):
        versions.append(f"transformers {other}")
    return ", ".join(versions)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        # Markdown, whose cells are escaped by the filter below.
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["cell"] = cell
    return environment


def cell(value: Any) -> str:
    """Text within Markdown: one line, without HTML or the marks of a table and of code."""
    text = one_line(value).replace("<", "&lt;")
    return re.sub(r"([`*|\[\]])", r"\\\1", text)
