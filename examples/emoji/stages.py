"""The way from installed packages to a trained checkpoint: weights, data, stage align, stage
instruct.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM, AutoTokenizer

from wings.train.metrics.progress import Watch
from wings.train.recipe import Recipe
from wings.train.run import TrainResult, train

from .catalogue import Drawing, catalogue
from .data import write
from .weights import write_language_model, write_vision_tower

STAGES = ("emoji-align", "emoji")
DONE = "counts.json"


@dataclass(frozen=True)
class Amounts:
    """How much data a run makes.

    Attributes:
        groups: of drawings; None for all.
        drawings: of each group; None for all.
        renderings: pictures of a train drawing that is asked for by name, and of another.
        questions: of text; None for all.
    """

    groups: int | None = None
    drawings: int | None = None
    renderings: tuple[int, int] = (24, 6)
    questions: int | None = None

    def of(self, drawings: Iterable[Drawing]) -> list[Drawing]:
        """Those of the drawings that are taken, in their order."""
        groups: dict[str, list[Drawing]] = {}
        for drawing in drawings:
            groups.setdefault(drawing.group, []).append(drawing)
        return [d for group in list(groups.values())[: self.groups] for d in group[: self.drawings]]


ALL = Amounts()


def prepare(folder: Path, amounts: Amounts = ALL) -> dict[str, int]:
    """Makes `weights/` and `data/` in `folder` where they are not there yet; returns records per
    file.

    Args:
        folder: of the run.
        amounts: of data.

    Raises:
        WingsError: a package is missing (what to install).
    """
    weights = folder / "weights"
    write_weights(weights)
    done = folder / "data" / DONE
    if not done.exists():
        counts = write(
            folder / "data",
            amounts.of(catalogue()),
            lambda asked: own_answers(weights / "llm", asked),
            amounts.renderings,
            amounts.questions,
        )
        done.write_text(json.dumps(counts))
    return json.loads(done.read_text())


def write_weights(folder: Path) -> None:
    """Makes `tower/` and `llm/` in `folder` where they are not there yet.

    Raises:
        WingsError: a package is missing (what to install).
    """
    if not (folder / "tower" / "open_clip_model.safetensors").exists():
        write_vision_tower(folder / "tower")
    if not (folder / "llm" / "model.safetensors").exists():
        write_language_model(folder / "llm")


@torch.inference_mode()
def own_answers(
    llm: Path, questions: list[str], batch_size: int = 32, max_new_tokens: int = 24
) -> list[str]:
    """What the untouched LLM says to each question, greedily, cut after `max_new_tokens`."""
    model = AutoModelForCausalLM.from_pretrained(llm)
    tokenizer = AutoTokenizer.from_pretrained(llm, padding_side="left")
    answers = []
    for start in range(0, len(questions), batch_size):
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
            )
            for question in questions[start : start + batch_size]
        ]
        batch = tokenizer(prompts, return_tensors="pt", padding=True)
        written = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
        texts = written[:, batch["input_ids"].shape[1] :]
        answers += tokenizer.batch_decode(texts, skip_special_tokens=True)
    return answers


def recipe(stage: str, folder: Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe `stage` of this package with its paths below `folder`.

    Args:
        stage: one of `STAGES`.
        folder: of the run.
        changes: `key=value`, as for `wings.train`.
    """
    path = Path(str(files("wings.train") / "recipes" / f"{stage}.yaml"))
    plain = Recipe.from_yaml(path)

    def below(place: str | None) -> str:
        return json.dumps(str(folder / (place or "")))

    overrides = [f"output={below(plain.output)}"]
    for number, source in enumerate(plain.data):
        overrides += [f"data.{number}.path={below(source.path)}"]
        if source.images is not None:
            overrides += [f"data.{number}.images={below(source.images)}"]
    if plain.start:
        overrides += [f"start={below(plain.start)}"]
    if plain.model:
        vision = plain.model.vision
        name = vision if isinstance(vision, str) else vision["model_name"]
        tower = name.removeprefix("local-dir:")
        overrides += [
            f"model.text={below(plain.model.text)}",
            f"model.vision.model_name={json.dumps(f'local-dir:{folder / tower}')}",
        ]
    return Recipe.from_yaml(path, [*overrides, *changes])


def train_stages(
    folder: Path, changes: Sequence[str] = (), watch: Watch | None = None
) -> list[TrainResult]:
    """Both stages, one after the other; a stage that is finished is not repeated.

    Args:
        folder: of the run, with `weights/` and `data/`.
        changes: of both recipes, `key=value`.
        watch: as `wings.train.run.train` takes it.
    """
    # At a hundred tokens the plain softmax trains a third faster on a CPU than the fused kernel,
    # whose backward is made for long rows.
    with sdpa_kernel(SDPBackend.MATH):
        return [train(recipe(stage, folder, changes), watch=watch) for stage in STAGES]
