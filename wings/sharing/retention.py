"""The figures of a report of `wings eval` that a model card shows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wings.errors import WingsError

from .local_paths import in_sentence, last_name, strip_value

REPORT = "report.json"
# Fields of report.json that hold the questions and answers, which stay here.
QUOTES = ("answers", "answers_alone", "documents", "samples")
# Measurements of text after items of senses: with the questions alone, and the conversations.
AFTER = {
    "after_image": ("conversations", "an image"),
    "after_audio": ("conversations_audio", "a sound"),
    "after_image_audio": ("conversations_image_audio", "an image and a sound"),
}


@dataclass(frozen=True)
class Score:
    """Percent right of `total` questions, with its 95% interval."""

    percent: float
    low: float
    high: float
    total: int

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Score":
        """From an accuracy in report.json."""
        low, high = fields["interval"]
        return cls(fields["percent"], low, high, fields["total"])

    def __str__(self) -> str:
        return f"{self.percent:.1f} ({self.low:.0f}-{self.high:.0f})"


@dataclass(frozen=True)
class Row:
    """A line of the retention table.

    Attributes:
        key: of the measurement.
        title: as shown.
        before: the LLM.
        after: the model.
        change: the difference with its interval, in points; "" where none was measured.
    """

    key: str
    title: str
    before: Score
    after: Score
    change: str


@dataclass(frozen=True)
class Retention:
    """Figures of a report of a checkpoint.

    Attributes:
        rows: retention of text, text after an image, and images.
        files: names of the files that the questions are from, by kind.
        llm: what the model was compared with.
        date: of the evaluation.
        with_versions: releases that it was measured with.
        notes: the report's own sentences on what was skipped or generated.
        verdict: the report's sentences.
    """

    rows: Sequence[Row]
    files: Mapping[str, str]
    llm: str
    date: str
    with_versions: str
    notes: Sequence[str]
    verdict: Sequence[str]


def read_report(folder: Path) -> dict[str, Any]:
    """The content of a folder's report.json.

    Raises:
        WingsError: none that can be read.
    """
    path = folder / REPORT if folder.is_dir() else folder
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(report["measurements"], dict):
            raise TypeError("no measurements")
        read_retention(report)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WingsError(
            f"--report {folder} has no {REPORT} of wings eval that can be read ({error}): name the"
            f" folder that wings eval wrote."
        ) from error
    return report


def validate_report(report: Mapping[str, Any], checkpoint: Path, where: Path) -> None:
    """Raises a `WingsError` if a report is of another checkpoint, by its folder's name."""
    measured = str(report["inputs"].get("checkpoint"))
    if Path(measured).name != checkpoint.resolve().name and not is_of(report, checkpoint):
        raise WingsError(
            f"--report {where} is of {measured}, not of {checkpoint}: measure this folder with"
            f" wings eval, or name its report."
        )


def is_of(report: Mapping[str, Any], checkpoint: Path) -> bool:
    """True if a report is of the checkpoint in a folder, by its path."""
    measured = Path(str(report["inputs"].get("checkpoint"))).expanduser()
    return measured.is_dir() and measured.resolve() == checkpoint.resolve()


def find_report(checkpoint: Path) -> Path | None:
    """The newest report of a checkpoint next to it or in the working folder; None without one.

    A report that is older than the weights is of an earlier model, and does not count.
    """
    found = {}
    for place in (Path.cwd(), checkpoint.resolve().parent, checkpoint):
        for path in (*place.glob(f"*/{REPORT}"), place / REPORT):
            try:
                report = read_report(path)
                written = path.stat().st_mtime
                if is_of(report, checkpoint) and written >= newest_weights(checkpoint):
                    found[path.parent] = written
            except (WingsError, KeyError, OSError, AttributeError):
                continue
    return max(found, key=lambda folder: found[folder]) if found else None


def newest_weights(checkpoint: Path) -> float:
    """When the weights of a folder were written last, in seconds."""
    return max((path.stat().st_mtime for path in checkpoint.glob("*.safetensors")), default=0.0)


def read_retention(report: Mapping[str, Any]) -> Retention:
    """The figures of a report for a card; what was not measured has no row."""
    measured, inputs = report["measurements"], report["inputs"]
    files = {
        kind: ", ".join(last_name(str(path)) for path in paths)
        for kind, paths in (inputs.get("files") or {}).items()
        if paths and kind != "include_path"
    }
    versions = report.get("versions") or {}
    shown = ("wings-lorra", "torch", "transformers")
    against = inputs.get("against")
    return Retention(
        list(_rows(measured)),
        files,
        last_name(str(against)) if against else "the LLM inside the checkpoint",
        str(report.get("date", "not recorded")),
        ", ".join(f"{name} {versions[name]}" for name in shown if name in versions),
        [in_sentence(note) for note in report.get("notes") or []],
        [in_sentence(line) for line in report.get("verdict") or []],
    )


def _rows(measured: Mapping[str, Any]) -> Iterator[Row]:
    if text := _first(measured.get("text")):
        yield _row("text", "Text alone", text)
    for key, (name, words) in AFTER.items():
        if after := _first(measured.get(key)):
            alone = after["alone"]
            pair = Score.of(alone["llm"]), Score.of(alone["model"])
            yield Row("alone", "Text of the next row, asked alone", *pair, "")
        if conversations := _first(measured.get(name)):
            yield _row(key, f"Text after {words}", conversations)
    if pictures := _first(measured.get("pictures")):
        yield _row("pictures", "Images (the LLM does not see them)", pictures)
    if sounds := _first(measured.get("sounds")):
        yield _row("sounds", "Sounds (the LLM does not hear them)", sounds)
    for name, fields in ((measured.get("tasks") or {}).get("rows") or {}).items():
        yield _row(f"task {name}", name, fields)


def _first(measurement: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The figures over all kinds of questions, which are the first ones."""
    kinds = (measurement or {}).get("kinds") or {}
    return next(iter(kinds.values()), None)


def _row(key: str, title: str, fields: Mapping[str, Any]) -> Row:
    change = fields["difference"]
    text = f"{change['value']:+.1f}"
    if change.get("interval"):
        low, high = change["interval"]
        text += f" ({low:+.1f} to {high:+.1f})"
    return Row(key, title, Score.of(fields["before"]), Score.of(fields["after"]), text)


def shared_report(report: Mapping[str, Any]) -> str:
    """`report.json` for others: all figures; no questions, answers, command or local paths."""
    kept = {key: value for key, value in report.items() if key not in ("command", "machine")}
    plain = strip_value(_without_quotes(kept), sentences=True)
    return json.dumps(plain, indent=1, ensure_ascii=False) + "\n"


def _without_quotes(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_quotes(one) for k, one in value.items() if k not in QUOTES}
    return [_without_quotes(one) for one in value] if isinstance(value, list) else value
