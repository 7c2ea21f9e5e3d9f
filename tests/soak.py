"""The soak: one training on the quickstart's data, killed again and again, against one left alone.

    python tests/soak.py --kills 30 --seed 0 --output /tmp/soak --result train/results/soak.json

Both runs are `python -m wings.train RECIPE` in processes of their own; the disturbed one is started
anew after every kill. Three kills in four are SIGKILL, the rest SIGTERM. The moments are drawn at
random over the whole training: a step, and some seconds after it was reported, which may fall into
the writing of a checkpoint. After every third kill one file of the newest checkpoint is damaged, if
an older one is left; the next life must name it and resume from the older. Exit code 0 when the
final weights and all metrics are equal.
"""

import argparse
import hashlib
import json
import platform
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers

from wings.examples.quickstart.dataset import QuickstartAmounts, Writer
from wings.examples.quickstart.jobs import ASSETS
from wings.train.metrics.metric_tracker import without_process_metrics
from wings.train.recipe import DataSource, ModelNames, Recipe
from wings.train.run_folder import RunFolder


def main() -> int:
    """Run both and compare."""
    parser = argparse.ArgumentParser(prog="python tests/soak.py", description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0, help="of data, training and kills")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--result", type=Path, help="where the JSON of what happened goes")
    given = parser.parse_args()
    given.output.mkdir(parents=True)
    write_data(given.output / "data", given.seed)
    begun = time.perf_counter()
    whole = recipe(given.output, "whole", given.steps, given.seed)
    life = Life(whole)
    assert life.end() == 0, life.errors
    seconds = time.perf_counter() - begun
    print(f"undisturbed: {given.steps} steps in {seconds:.0f} s", flush=True)
    disturbed = recipe(given.output, "disturbed", given.steps, given.seed)
    deaths = list(kill(disturbed, given.kills, given.seed, life.pace, life.start))
    life = Life(disturbed)
    assert life.end() == 0, life.errors
    sums = {name: digest(Path(run.output)) for name, run in
            {"undisturbed": whole, "disturbed": disturbed}.items()}  # fmt: skip
    equal = metrics(whole) == metrics(disturbed) and len(set(sums.values())) == 1
    outcome = {
        "command": " ".join(["python tests/soak.py", f"--kills {given.kills}",
                             f"--steps {given.steps}", f"--seed {given.seed}"]),
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": f"{platform.machine()}, one thread a run",
        "steps": given.steps,
        "seconds_undisturbed": round(seconds),
        "seconds_altogether": round(time.perf_counter() - begun),
        "weights_and_figures_equal": equal,
        "sha256_of_the_weights": sums,
        "skipped_records": len(RunFolder(whole.output).read_result()["skipped"]),
        "kills": deaths,
    }  # fmt: skip
    if given.result:
        given.result.parent.mkdir(parents=True, exist_ok=True)
        given.result.write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")
    print(f"{len(deaths)} kills; weights and metrics {'equal' if equal else 'DIFFER'}", flush=True)
    return 0 if equal else 1


def write_data(folder: Path, seed: int) -> None:
    """The quickstart's captions and conversations, with three pictures lost."""
    amounts = QuickstartAmounts(text=0, captions=200, conversations=200, held_out=1)
    Writer(folder, seed).write(amounts)
    for name in sorted((folder / "img").iterdir())[5:300:100]:
        name.unlink()


def recipe(folder: Path, name: str, steps: int, seed: int) -> Recipe:
    """All groups trained, mixed sources, packed rows, a data worker, records to skip."""
    data = folder / "data"
    made = Recipe(
        stage="instruct",
        output=str(folder / name),
        model=ModelNames(vision=f"local-dir:{ASSETS / 'tower'}", text=str(ASSETS / "llm")),
        data=[
            DataSource(str(data / "pictures.jsonl"), str(data)),
            DataSource(str(data / "captions.jsonl"), str(data), weight=0.5),
        ],
        learning_rates={"projector": 1e-3, "image_learners": 1e-3, "text_learners": 1e-3,
                        "router": 1e-3, "language_model": 3e-4},
        steps=steps, seed=seed, batch_size=8, device_batch_size=4, max_length=256,
        batching="pack", workers=1, on_bad_record="skip", log_every=1, save_every=4,
    )  # fmt: skip
    (folder / f"{name}.yaml").write_text(made.to_yaml(), encoding="utf-8")
    return made


def start(*words: str) -> subprocess.Popen:
    """A process of Python."""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *words], stdout=pipe, stderr=pipe, text=True)


class Life:
    """One process of a run, from its start to its end.

    Attributes:
        step: the last step that it reported.
        errors: what it wrote to stderr.
    """

    def __init__(self, run: Recipe) -> None:
        self.step, self.errors = 0, ""
        self.begun, self.reports = time.perf_counter(), []
        self.process = start("-m", "wings.train", f"{run.output}.yaml")
        self.readers = [threading.Thread(target=read) for read in (self._follow, self._listen)]
        for reader in self.readers:
            reader.start()

    def reach(self, step: int) -> bool:
        """Wait until it reports `step`; False when it ended before."""
        while self.step < step and self.process.poll() is None:
            time.sleep(0.005)
        return self.process.poll() is None

    def end(self) -> int:
        """Wait for its exit code."""
        code = self.process.wait()
        for reader in self.readers:
            reader.join()
        return code

    @property
    def start(self) -> float:
        """Seconds to its first report."""
        return self.reports[0] - self.begun

    @property
    def pace(self) -> float:
        """Seconds between two reports."""
        return (self.reports[-1] - self.reports[0]) / (len(self.reports) - 1)

    def _follow(self) -> None:
        for line in self.process.stdout:
            words = line.split()
            if words and words[0] == "instruct" and "/" in words[1]:
                self.reports.append(time.perf_counter())
                self.step = int(words[1].split("/")[0])

    def _listen(self) -> None:
        self.errors = self.process.stderr.read()


def kill(run: Recipe, kills: int, seed: int, pace: float, start: float) -> Any:
    """Lives that end too early; what is known of each death. The second one dies as a child."""
    rng = random.Random(seed)
    folder = RunFolder(run.output)
    hurt = None
    begun = time.perf_counter()
    # A life that is to die must not have come to its end: the last steps are left to the last life.
    targets = sorted(rng.randrange(1, run.steps - 6) for _ in range(kills))
    for n, target in enumerate(targets):
        number = signal.SIGTERM if n % 4 == 3 else signal.SIGKILL
        before = folder.last_checkpoint()
        life = Life(run)
        # Anywhere between this report and the end of the next checkpoint, or while it still loads.
        young = n == 1
        alive = young or life.reach(target)
        wait = rng.uniform(0, start if young else 4 * pace)
        asked = time.perf_counter()
        while time.perf_counter() - asked < wait and not (young and life.step):
            # A machine that is faster than it was is not to train to the end meanwhile.
            time.sleep(0.005)
        life.process.send_signal(number)
        code = life.end()
        if hurt is not None and life.step:
            # It got as far as its first step, so it looked at the checkpoints before.
            assert f"{hurt.name}: " in life.errors, (hurt, life.errors)
            hurt = None
        expected = 75 if number == signal.SIGTERM else -signal.SIGKILL
        assert alive and code == expected, (code, life.errors)
        drafts = folder.owned.drafts
        left = sorted(path.name for path in drafts.iterdir()) if drafts.exists() else []
        last = folder.last_checkpoint()
        death = {
            "signal": number.name,
            "began_after": before.name if before else "nothing",
            "last_reported_step": life.step,
            "after": f"step {target}" if not young else "the process began",
            "and_seconds": round(wait, 3),
            "second_of_the_soak": round(time.perf_counter() - begun, 1),
            "last_whole": last.name if last else "nothing",
            "half_written": left,
            "exit_code": code,
        }
        if n % 3 == 2 and hurt is None and len(folder.checkpoints()) > 1:
            hurt = last
            death["damaged"] = damage(last, rng)
        print(json.dumps(death), flush=True)
        yield death


def damage(checkpoint: Path, rng: random.Random) -> str:
    """Damages one file of a checkpoint; returns a phrase on it."""
    file = rng.choice(sorted(path for path in checkpoint.rglob("*") if path.is_file()))
    content = bytearray(file.read_bytes())
    place = rng.randrange(len(content))
    kind = rng.choice(("deleted", "emptied", "cut", "one bit"))
    if kind == "deleted":
        file.unlink()
    elif kind == "one bit":
        content[place] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
    else:
        file.write_bytes(content[: place if kind == "cut" else 0])
    return f"{checkpoint.name}/{file.relative_to(checkpoint)}, {kind}"


def digest(folder: Path) -> str:
    """Of the final weights' file."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def metrics(run: Recipe) -> tuple:
    """Every logged figure and every skipped record of a finished run."""
    result = RunFolder(run.output).read_result()
    return without_process_metrics(result["history"]), result["skipped"]


if __name__ == "__main__":
    sys.exit(main())
