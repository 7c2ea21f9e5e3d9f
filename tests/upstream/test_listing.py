"""docs/upstream.md lists the contracts as the code states them."""

from pathlib import Path

from wings.upstream.contract import listing

FILE = Path(__file__).parents[2] / "docs" / "upstream.md"
BEGIN, END = "<!-- contracts -->\n", "\n<!-- end of contracts -->"
RENEW = (
    "python -c 'from wings.upstream.contract import listing; print(listing())' prints the list "
    "that belongs between the marks of docs/upstream.md"
)


def test_the_page_lists_every_contract():
    _, begin, rest = FILE.read_text(encoding="utf-8").partition(BEGIN)
    listed, end, _ = rest.partition(END)
    assert begin and end
    assert listed == listing(), RENEW
