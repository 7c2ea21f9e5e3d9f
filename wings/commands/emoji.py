"""`wings emoji`: a real LLM and a real vision tower from ordinary packages learn to read drawings,
and are scored.
"""

import json
import os
import platform
import time
from datetime import datetime, timezone
from pathlib import Path

import torch
import transformers

from wings.commands.emoji_page import page


def emoji(folder: Path) -> dict:
    """Weights, data, both stages, scores: each where it is not in `folder` yet; returns the
    results.

    Writes `results.json` and `README.md` in `folder`.
    """
    # What only this command needs is imported when it runs.
    from wings.eval.emoji import score_folder
    from wings.train.emoji.stages import prepare, train_stages

    seconds = {}
    begin = time.perf_counter()
    records = prepare(folder)
    seconds["weights and data"] = time.perf_counter() - begin
    stages = train_stages(folder)
    for name, stage in zip(("align", "instruct"), stages, strict=True):
        seconds[name] = stage.seconds
    begin = time.perf_counter()
    scores = score_folder(folder)
    seconds["scoring"] = time.perf_counter() - begin
    results = {
        "command": f"wings emoji --output {folder}",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load average at the end": [round(load, 1) for load in os.getloadavg()],
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "seconds": {name: round(value) for name, value in seconds.items()},
        "records": records,
        "steps": {
            name: stage.steps for name, stage in zip(("align", "instruct"), stages, strict=True)
        },
        "last loss": {
            name: round(stage.losses[-1], 3)
            for name, stage in zip(("align", "instruct"), stages, strict=True)
        },
        **scores,
    }
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    (folder / "README.md").write_text(page(results), encoding="utf-8")
    return results


def processor_name() -> str:
    """The processor as Linux names it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
