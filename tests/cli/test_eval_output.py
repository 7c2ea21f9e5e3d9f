"""What the terminal shows of a report."""

import io

from rich.console import Console

from wings.cli.eval_output import section_table, show
from wings.eval.report.report import Report, Section


def printed(function):
    stream = io.StringIO()
    function(Console(file=stream, width=100, highlight=False))
    return stream.getvalue()


def test_brackets_in_a_name_are_letters():
    rows = [("", "n"), ("[bold]sums[/nowhere]", "3")]
    said = printed(lambda console: console.print(section_table(Section("Text", "", rows))))
    assert "[bold]sums[/nowhere]" in said and "3" in said


def test_a_report_is_shown_in_order():
    sections = [
        Section("First", "", [("", "n"), ("a kind", "100")]),
        Section("Second", "", [("", "n"), ("a kind", "200")]),
    ]
    verdict = ["Text alone: [kept] exactly.", "Images: 7%."]
    report = Report("t", {}, ["a [note]"], sections, verdict=verdict)
    said = printed(lambda console: show(console, report))
    places = [said.index(words) for words in ("First", "Second", "a [note]", *verdict)]
    assert places == sorted(places)
