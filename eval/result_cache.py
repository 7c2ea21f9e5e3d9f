"""A cache of finished results on disk: JSON Lines in a folder, appended batch by batch."""

import json
from pathlib import Path
from typing import Any

from .processes import Processes


class ResultCache:
    """Results by key, so that an interrupted evaluation resumes after its last finished batch.

    Each process appends to its own file and reads all files at the start. A line that was cut off
    when a process was killed is skipped.

    Args:
        folder: holds `rank-N.jsonl`; created if missing.
        processes: that share the cache; all of them must construct it.
    """

    def __init__(self, folder: str | Path, processes: Processes) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"rank-{processes.rank}.jsonl"
        self.is_torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        self.results: dict[str, Any] = {}
        for path in sorted(folder.glob("*.jsonl")):
            self.results |= _read(path)
        # Gathering is also a barrier, so all have read before any writes. It covers machines that
        # do not share a folder.
        self.results = processes.gather(self.results)

    def __contains__(self, key: str) -> bool:
        return key in self.results

    def __getitem__(self, key: str) -> Any:
        return self.results[key]

    def add(self, results: dict[str, Any]) -> None:
        """Appends a finished batch to the file."""
        self.results |= results
        lines = [json.dumps({"key": k, "result": r}) for k, r in results.items()]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("\n" if self.is_torn else "") + "\n".join(lines) + "\n")
        self.is_torn = False


def _read(path: Path) -> dict[str, Any]:
    results = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            results[entry["key"]] = entry["result"]
        except (ValueError, KeyError, TypeError):
            continue  # cut off by a kill; measured again
    return results
