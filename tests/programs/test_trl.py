"""TRL's trainers, unchanged, on our models: the tokens they learn, and one step of each."""

import pytest
import torch
from packaging.version import Version

from wings import WingsForCausalLM, WingsProcessor

trl = pytest.importorskip("trl", reason="trl is not installed")
datasets = pytest.importorskip("datasets", reason="datasets is not installed")
peft = pytest.importorskip("peft", reason="peft is not installed")

QUESTIONS, ANSWERS = ("which?", "which one?"), ("red", "blue!")
ALL = [
    f"<|user|>{question}<|end|><|assistant|>{answer}<|end|>"
    for question, answer in zip(QUESTIONS, ANSWERS, strict=True)
]
REPLIES = [f"{answer}<|end|>" for answer in ANSWERS]
# TRL and peft call what transformers 5.24 renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6")
masks_of_images = pytest.mark.skipif(
    Version(trl.__version__) < Version("1.16"), reason="this trl masks no images"
)


def talks(*, in_parts):
    """Two conversations, with a place for an image in each where content is in parts."""
    for question, answer in zip(QUESTIONS, ANSWERS, strict=True):
        said, reply = question, answer
        if in_parts:
            said = [{"type": "image"}, {"type": "text", "text": question}]
            reply = [{"type": "text", "text": answer}]
        yield [{"role": "user", "content": said}, {"role": "assistant", "content": reply}]


@pytest.fixture(scope="module")
def data(pictures):
    """Data sets in the forms that TRL takes, by name."""
    strings, parts = list(talks(in_parts=False)), list(talks(in_parts=True))
    split = {"prompt": [talk[:1] for talk in strings], "completion": [talk[1:] for talk in strings]}
    pairs = {"prompt": split["prompt"], "chosen": split["completion"],
             "rejected": [[{"role": "assistant", "content": "no"}]] * 2}  # fmt: skip
    images = {"images": [[picture] for picture in pictures]}
    shown = [text.replace("<|user|>", "<|user|><image>") for text in ALL]
    columns = {
        "messages": {"messages": parts, **images},
        "strings": {"messages": strings, **images},
        "one image": {"messages": strings, "image": pictures},
        "prompt": {**split, **images},
        "prompt, no image": split,
        "messages, no image": {"messages": strings},
        "text": {"text": shown, **images},
        "text, no image": {"text": ALL},
        "preferences": {**pairs, **images},
        "questions": {"prompt": split["prompt"], **images},
    }
    return {name: datasets.Dataset.from_dict(column) for name, column in columns.items()}


def trainer_of(kind, folder, data_set, tmp_path, *, model=None, arguments=None, **options):
    """A TRL trainer of one step over both samples."""
    config = getattr(trl, f"{kind}Config")(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=2, report_to="none",
        use_cpu=True, bf16=False, save_strategy="no", learning_rate=0.1, disable_tqdm=True,
        **(arguments or {}),
    )  # fmt: skip
    return getattr(trl, f"{kind}Trainer")(
        model=WingsForCausalLM.from_pretrained(folder) if model is None else model,
        args=config, train_dataset=data_set, **options,
    )  # fmt: skip


def learned(batch, processor):
    """The text of what each row learns, without images."""
    rows = [ids[labels != -100] for ids, labels in
            zip(batch["input_ids"], batch["labels"], strict=True)]  # fmt: skip
    return [processor.decode(row[row != processor.image_token_id]) for row in rows]


def letters_modulo_three(completions, **_):
    """A reward that differs between answers."""
    return [len(completion[0]["content"]) % 3.0 for completion in completions]


def trains(trainer):
    """Runs the step and returns the names of the parameters that it changed."""
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    loss = trainer.train().training_loss
    moved = {name for name, p in trainer.model.named_parameters() if not p.equal(before[name])}
    assert torch.isfinite(torch.tensor(loss)), loss
    return moved


ALL = [
    f"<|user|>{q}<|end|><|assistant|>{a}<|end|>" for q, a in zip(QUESTIONS, ANSWERS, strict=True)
]


@pytest.mark.parametrize(
    ("name", "arguments", "want"),
    [
        ("messages", {}, ALL),
        ("strings", {}, ALL),
        ("one image", {}, ALL),
        pytest.param("messages", {"assistant_only_loss": True}, REPLIES, marks=masks_of_images),
        ("messages, no image", {}, ALL),
        ("messages, no image", {"assistant_only_loss": True}, REPLIES),
        ("prompt", {}, REPLIES),
        ("prompt, no image", {}, REPLIES),
        ("prompt", {"completion_only_loss": False}, ALL),
        ("text", {"remove_unused_columns": False}, ALL),
        ("text, no image", {}, ALL),
        ("messages", {"max_length": 20}, [ALL[0], ALL[1].removesuffix("e!<|end|>")]),
    ],
    ids=str,
)
def test_sft_learns_what_it_should(name, arguments, want, tiny_folder, data, tmp_path):
    processor = WingsProcessor.from_pretrained(tiny_folder)
    trainer = trainer_of(
        "SFT", tiny_folder, data[name], tmp_path, arguments=arguments, processing_class=processor
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert sorted(learned(batch, processor)) == sorted(want)
    assert ("pixel_values" in batch) == ("no image" not in name)
    moved = trains(trainer)
    # Learners of images see images only.
    assert any("wings.image" in one for one in moved) == ("pixel_values" in batch)


@masks_of_images
def test_the_loss_is_ours(tiny_folder, data, tmp_path):
    """TRL's batch gives the loss of the rows that `encode` makes for our own training."""
    processor = WingsProcessor.from_pretrained(tiny_folder)
    trainer = trainer_of(
        "SFT", tiny_folder, data["messages"], tmp_path,
        arguments={"assistant_only_loss": True}, processing_class=processor,
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    rows = []
    for row in data["messages"]:
        image, text = row["messages"][0]["content"]
        content = [{**image, "image": row["images"][0]}, text]
        rows.append(processor.encode([{"role": "user", "content": content}, row["messages"][1]]))
    own = processor.pad(rows)
    with torch.no_grad():
        losses = [trainer.model(**one).loss for one in (batch, own)]
    assert losses[0] == pytest.approx(losses[1].item(), rel=1e-5)


def test_sft_with_lora(tiny_folder, data, tmp_path):
    trainer = trainer_of(
        "SFT", tiny_folder, data["messages"], tmp_path,
        peft_config=peft.LoraConfig(target_modules="all-linear"),
    )  # fmt: skip
    moved = trains(trainer)
    assert moved and all("lora" in name for name in moved)


@pytest.mark.parametrize(
    ("kind", "name", "options", "arguments"),
    [
        ("SFT", "messages", {}, {}),
        ("DPO", "preferences", {}, {}),
        ("GRPO", "questions",
         {"reward_funcs": letters_modulo_three},
         {"num_generations": 2, "max_completion_length": 6, "temperature": 5.0}),
    ],
    ids=["SFT", "DPO", "GRPO"],
)  # fmt: skip
@pytest.mark.parametrize("given", ["folder", "model"])
def test_trainers_with_images(kind, name, options, arguments, given, tiny_folder, data, tmp_path):
    trainer = trainer_of(
        kind, tiny_folder, data[name], tmp_path, arguments=arguments,
        model=str(tiny_folder) if given == "folder" else None, **options,
    )  # fmt: skip
    assert type(trainer.model).__name__ == "WingsForCausalLM"
    assert any("wings.image" in one for one in trains(trainer))
