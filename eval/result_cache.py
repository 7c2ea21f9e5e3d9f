"""What is measured already: JSON Lines in a folder, written batch by batch, found again by key."""

import json
from pathlib import Path
from typing import Any

from .processes import Ranks


class ResultCache:
    """Results by key. A run that was killed finds all batches that it had finished.

    Every rank appends to a file of its own and knows at the start what any had written; a line cut
    off by a kill is passed over.

    Args:
        folder: holds `rank-N.jsonl`; made where it is not there.
        ranks: the processes that share it; all of them must come here.
    """

    def __init__(self, folder: str | Path, ranks: Ranks) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"rank-{ranks.rank}.jsonl"
        self.is_torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        self.results: dict[str, Any] = {}
        for path in sorted(folder.glob("*.jsonl")):
            self.results |= _read(path)
        # Nobody has written before everybody has read; folders need not be shared by machines.
        self.results = ranks.together(self.results)

    def __contains__(self, key: str) -> bool:
        return key in self.results

    def __getitem__(self, key: str) -> Any:
        return self.results[key]

    def add(self, results: dict[str, Any]) -> None:
        """A finished batch: on the disk when this returns."""
        self.results |= results
        lines = [json.dumps({"key": k, "result": r}) for k, r in results.items()]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("\n" if self.is_torn else "") + "\n".join(lines) + "\n")
        self.is_torn = False


def _read(path: Path) -> dict[str, Any]:
    found = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            found[entry["key"]] = entry["result"]
        except (ValueError, KeyError, TypeError):
            continue  # what a kill cut off is measured again
    return found
