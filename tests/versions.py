"""Tests the oldest allowed releases and the newest that exist, each in a fresh environment.

    python tests/versions.py            both; also `make versions`
    python tests/versions.py --keep DIR keeps the environments, and uses those that are there

Writes docs/versions.json and the table of docs/versions.md that is made from it. The oldest run
wants Python 3.10 (`--oldest-python`); without one it takes the Python that runs this.
"""

import argparse
import datetime
import json
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "docs" / "versions.json"
PAGE = ROOT / "docs" / "versions.md"
BOUNDS = runpy.run_path(str(ROOT / "wings" / "upstream" / "bounds.py"))["BOUNDS"]
BEGIN, END = "<!-- versions: made by `make versions` -->", "<!-- end of versions -->"
# Contracts, guarantees, generation, checkpoints, a tiny training of both stages.
TESTS = {
    "contracts": ["tests/upstream"],
    "guarantees": ["tests/wings/test_guarantees.py"],
    "generation": ["tests/wings/test_generation.py", "tests/wings/test_static_cache.py"],
    "checkpoints": ["tests/wings/test_checkpoints.py"],
    "training": ["tests/train/test_run.py"],
}
SHOWN = ("torch", "torchvision", "transformers", "accelerate", "open_clip_torch")
REPORT = (
    "import importlib.metadata, json, platform\n"
    f"names = {[*BOUNDS, 'torchvision', 'triton', 'peft', 'lm_eval']}\n"
    "found = {name: importlib.metadata.version(name) for name in names}\n"
    "print(json.dumps({'python': platform.python_version(), **found}))\n"
)


def make(folder: Path, python: str, oldest: bool) -> Path:
    """An environment with the package and its tests; its interpreter."""
    inner = folder / "bin" / "python"
    if inner.exists():
        return inner
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    pip = [str(inner), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pins = [f"{name}=={low}" for name, (low, _) in BOUNDS.items()] if oldest else []
    subprocess.run([*pip, f"{ROOT}[test]", *pins], check=True)
    if not oldest:
        # Beyond the bounds too, where something newer is out: that is how bounds are raised.
        subprocess.run([*pip, "--upgrade", "torchvision", *BOUNDS], check=True)
    return inner


def test(python: Path) -> dict[str, str]:
    """What each part of the tests came to, as `12 passed`."""
    found = {}
    for part, files in TESTS.items():
        command = [str(python), "-m", "pytest", "-q", "-n", "2", *files]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]]
        counted = re.sub(r"( in [\d.]+s.*|=+)", "", lines[-1]).strip()
        found[part] = counted if done.returncode in (0, 1) else f"did not run: {lines[-1]}"
        print(f"    {part}: {found[part]}", flush=True)
        for line in lines:
            if line.startswith(("FAILED", "ERROR")):
                print(f"        {line}", flush=True)
    return found


def table(runs: dict) -> str:
    """The runs as a table in Markdown."""
    head = ["", *(f"{name} {run['date']}" for name, run in runs.items())]
    rows = [head, ["---"] * len(head)]
    for name in ("python", *SHOWN):
        rows.append([name, *(run["versions"][name] for run in runs.values())])
    for part in TESTS:
        rows.append([part, *(run["tests"].get(part, "") for run in runs.values())])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def write(runs: dict, page: Path = PAGE, file: Path = FILE) -> None:
    """Writes the runs, and their table into the page."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{table(runs)}\n{END}{after}", encoding="utf-8")


def main() -> int:
    """Both runs; 1 where a test failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="folder of the environments")
    own = shutil.which("python3.10") or sys.executable
    parser.add_argument("--oldest-python", default=own, metavar="PATH")
    parser.add_argument("--only", choices=("oldest", "newest"))
    arguments = parser.parse_args()
    runs = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name, python in (("oldest", arguments.oldest_python), ("newest", sys.executable)):
            if arguments.only not in (None, name):
                continue
            print(name, flush=True)
            inner = make((arguments.keep or Path(folder)) / name, python, name == "oldest")
            report = subprocess.run([inner, "-c", REPORT], check=True, capture_output=True)
            versions = json.loads(report.stdout)
            print(f"    {', '.join(f'{key} {value}' for key, value in versions.items())}")
            start = time.monotonic()
            tests = test(inner)
            print(f"    {time.monotonic() - start:.0f} s", flush=True)
            date = datetime.date.today().isoformat()
            runs[name] = {"date": date, "versions": versions, "tests": tests}
            write({key: runs[key] for key in ("oldest", "newest") if key in runs})
    counts = [count for run in runs.values() for count in run["tests"].values()]
    return int(any("failed" in count or "did not run" in count for count in counts))


if __name__ == "__main__":
    sys.exit(main())
