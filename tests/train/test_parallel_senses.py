"""DDP and FSDP2 with several senses: one process's run, whatever the processes get, and no hang."""

import json

import numpy as np
import pytest
import soundfile
import spread
import torch
from audio_models import tiny_audio
from PIL import Image
from spread import outcome, worst
from tiny import TEXT, VISION, tiny_tokenizer
from transformers import LlamaConfig

from wings.config import WingsConfig
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.train.recipe import DataSource

# What both processes get at the same time: T text, P a picture, S a sound of one stretch, L one of
# three, B a picture and a sound, W sounds around a picture.
PATTERN = "TS PT SP LB TB WT TT WP"
PARTS = {"T": "", "P": "p", "S": "s", "L": "l", "B": "ps", "W": "sps"}


def record(folder, number, kind):
    """A record with the items of a kind, and files for them."""
    content = []
    for place, item in enumerate(PARTS[kind]):
        name = f"{number}-{place}"
        if item == "p":
            Image.effect_noise((28, 28), 90).convert("RGB").save(folder / f"{name}.png")
            content.append({"type": "image", "image": f"{name}.png"})
            continue
        seconds = {"s": 0.6, "l": 2.4}[item]
        noise = np.random.default_rng(number).normal(0, 0.1, int(seconds * 16_000))
        soundfile.write(folder / f"{name}.wav", noise, 16_000)
        content.append({"type": "audio", "audio": f"{name}.wav"})
    content.append({"type": "text", "text": f"{number}?"})
    answer = "ab!c"[number % 4] * (1, 40, 3, 17, 2)[number % 5]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns})


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    kinds = PATTERN.replace(" ", "")
    lines = [record(folder, number, kind) for number, kind in enumerate(kinds)]
    (folder / "mixed.jsonl").write_text("\n".join(lines))
    return [DataSource(str(folder / "mixed.jsonl"), str(folder))]


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """Folders of models with images and sounds: as stage align makes them, and routed ones."""
    audio = tiny_audio("whisper", pool=10)
    processor = WingsProcessor.from_pretrained_parts(
        text=tiny_tokenizer(), image=VISION, audio=audio
    )
    ids = {name: sense.token_id for name, sense in processor.senses.items()}
    folders = {}
    for name, options in (
        ("align", {"learners": ["{}"], "router": None}),
        ("instruct", {"learners": ["{}", "text"], "router": "attended"}),
    ):
        of_image, of_audio = (
            {**options, "learners": [one.format(sense) for one in options["learners"]]}
            for sense in ("image", "audio")
        )
        config = WingsConfig(
            text_config=LlamaConfig(**TEXT), vision_config=VISION, rank=4, text_guard=True,
            image_token_id=ids["image"], senses_rule="attended", **of_image,
            other_senses={
                "audio": {"encoder": audio, "rank": 3, "token_id": ids["audio"], **of_audio}
            },
        )  # fmt: skip
        torch.manual_seed(0)
        model = WingsForCausalLM(config)
        for parameter_name, parameter in model.named_parameters():
            if ".wings." in parameter_name:
                torch.nn.init.normal_(parameter, std=0.1)
        folders[name] = tmp_path_factory.mktemp(name)
        for part in (model, processor):
            part.save_pretrained(folders[name])
    return folders


def test_two_processes_equal_one_whatever_senses_each_of_them_gets(
    make_recipe, mixed, starts, in_two, tmp_path
):
    rates = {"language_model": 1e-3, "router": 1e-2, "audio_router": 1e-2}
    ways = {
        "align": ("align", {"device_batch_size": 1}),
        "instruct": ("instruct", {"learning_rates": rates}),
        "frozen": ("instruct", {"freeze_llm": True, "device_batch_size": 1,
                                "gradient_checkpointing": True}),
        "heard": ("instruct", {"freeze_llm": True, "trained_senses": ["audio"]}),
    }  # fmt: skip
    pairs = []
    for name, (stage, changes) in ways.items():

        def make(way, stage=stage, name=name, changes=changes):
            return make_recipe(
                stage, output=str(tmp_path / f"{name}-{way}"), data=mixed,
                start=str(starts[stage]), max_length=160, max_grad_norm=1e6, batch_size=4, steps=4,
                parallel="fsdp" if way == "fsdp" else "ddp", **changes,
            )  # fmt: skip

        single = make("1")
        spread.recorded(single)
        pairs += [(single, make(way)) for way in ("fsdp", "ddp")]
    in_two(*(double for _, double in pairs))
    for single, double in pairs:
        one, two = outcome(single), outcome(double)
        assert two[0] == pytest.approx(one[0], rel=2e-5), double.output
        assert two[1] == pytest.approx(one[1], rel=1e-4), double.output
        assert all(gradient.any() for gradient in one[2].values()), double.output
        assert worst(one[2], two[2]) < 1e-4, double.output
        assert worst(one[3], two[3]) < 1e-5, double.output
    names = outcome(pairs[-1][0])[2]
    assert all("audio" in name for name in names)
