"""KL to the base LLM: value and gradient by definition, however a batch is cut; invalid recipes."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest
import spread
import torch
from accelerate import Accelerator
from forked import run_ranks
from PIL import Image

from wings.errors import WingsError
from wings.model.backbone import WITHOUT_WINGS
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.train.data.collator import Collator, Packer, loss_tokens, with_kl_mask
from wings.train.data.dataset import ConversationDataset
from wings.train.kl_to_base import BaseLLM, KLToBaseLoss, as_llm
from wings.train.lora import adapters
from wings.train.metrics.metric_tracker import without_process_metrics
from wings.train.param_groups import prepare_groups
from wings.train.recipe import DataSource, Evaluate, KLToBase, Lora, Recipe, TextTurns
from wings.train.run import train

HANG = 300
SPREAD = Path(spread.__file__)
BOTH = {"learners": ("image", "text"), "router": "position"}


@pytest.fixture(scope="module")
def awake(tmp_path_factory, make_model):
    """A checkpoint whose learners do something."""
    torch.manual_seed(1)
    model, processor = make_model(**BOTH)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".wings." in name:
                parameter.normal_(std=0.3)
        # A random head hardly prefers any token, so that nothing could change its mind.
        model.lm_head.weight *= 10
    folder = tmp_path_factory.mktemp("awake")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Eight conversations, half of them with pictures, of one to two turns; and four exchanges."""
    folder = tmp_path_factory.mktemp("talk")
    lines = []
    for n in range(8):
        turns = []
        for turn in range(1 + n % 2):
            turns += [{"role": "user", "content": f"{n}{turn}?"}]
            turns += [{"role": "assistant", "content": "abcd"[turn + n % 3] * (1 + 3 * n % 7)}]
        if n < 4:
            name = f"{n}.png"
            Image.effect_noise((28, 28), 90).convert("RGB").save(folder / name)
            question = {"type": "text", "text": turns[0]["content"]}
            turns[0]["content"] = [{"type": "image", "image": name}, question]
        lines.append(json.dumps({"messages": turns}))
    (folder / "talk.jsonl").write_text("\n".join(lines))
    lines = [json.dumps({"texts": [{"user": f"{n}+?", "assistant": "yes" * n}]}) for n in (1, 2, 3)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def make(make_recipe, files, awake, tmp_path):
    """A function of (name, **changes): a recipe in which half of the pictures have text turns."""

    def recipe(name="run", weight=2.0, **changes):
        settings = {
            "output": str(tmp_path / name),
            "data": [DataSource(str(files / "talk.jsonl"), str(files))],
            "text_turns": TextTurns(str(files / "text.jsonl"), 0.7),
            "kl_to_base": KLToBase(weight) if weight else None,
            "start": awake,
            "freeze_llm": True,
            "batch_size": 8,
            "max_grad_norm": 1e6,
            "steps": 1,
        }
        return make_recipe("instruct", **{**settings, **changes})

    return recipe


def definition(model, samples):
    """KL(LLM || model) in float64: the sum over every sample's retained tokens, and their number.

    Of the LLM as it is target out of the model; of each sample alone, unpadded; token by token.
    """
    llm = copy.deepcopy(model).extract_language_model().double().eval()
    total, count = 0.0, 0
    for sample in samples:
        if "base_inputs" not in sample:
            continue
        alone = sample["base_inputs"]
        with torch.no_grad():
            expected = llm(alone["input_ids"][None]).logits[0].softmax(-1)
        pixels = sample.get("pixel_values")
        pixels = None if pixels is None else pixels.double()
        found = model(sample["input_ids"][None], pixel_values=pixels, use_cache=False).logits[0]
        places = [t for t in range(1, len(sample["labels"])) if sample["kl_mask"][t]]
        answers = [t for t in range(1, len(alone["labels"])) if alone["labels"][t] != -100]
        for place, answer in zip(places, answers, strict=True):
            p, q = expected[answer - 1], found[place - 1].softmax(-1)
            total = total + (p * (p / q).log()).sum()
            count += 1
    return total, count


def samples_of(recipe, awake):
    return [*ConversationDataset.of(recipe, WingsProcessor.from_pretrained(awake))]


@pytest.mark.filterwarnings("ignore:The 1 oldest of 2 exchanges")
def test_what_is_retained(make, awake, files):
    processor = WingsProcessor.from_pretrained(awake)
    recipe = make()
    data = ConversationDataset.of(recipe, processor)
    kinds = []
    for number, sample in enumerate(data):
        own, added = data.messages(number)
        pictures = number < 4
        kinds.append((pictures, bool(added), "kl_mask" in sample))
        if "kl_mask" not in sample:
            continue
        said = processor.tokenizer.decode(sample["input_ids"][sample["kl_mask"]])
        wanted = added if pictures else own
        answers = [m["content"][0]["text"] for m in wanted if m["role"] == "assistant"]
        assert said.replace(" ", "") == "".join(f"{answer}<|end|>" for answer in answers)
        alone = processor.encode(added if pictures else own)
        assert torch.equal(sample["base_inputs"]["input_ids"], alone["input_ids"])
    assert set(kinds) == {(True, True, True), (True, False, False), (False, False, True)}
    assert "kl_mask" not in ConversationDataset.of(make(weight=None), processor)[5]
    # Follow-up questions whose picture was dropped are not text turns.
    short = make(max_length=14, text_turns=None, on_bad_record="skip")
    cut = [sample for sample in ConversationDataset.of(short, processor) if "skipped" not in sample]
    assert any("pixel_values" not in s and "kl_mask" not in s for s in cut)


@pytest.mark.parametrize("way", ["pad", "pack"])
@pytest.mark.parametrize("adapted", [False, True])
def test_the_term_is_its_definition(make, awake, way, adapted):
    if adapted:
        pytest.importorskip("peft")
    torch.manual_seed(2)
    lora = Lora(rank=2) if adapted else None
    recipe = make(lora=lora)
    model = WingsForCausalLM.from_pretrained(awake)
    prepare_groups(model, recipe)
    plain = WingsForCausalLM.from_pretrained(awake)
    for parameter in adapters(model):
        torch.nn.init.normal_(parameter, std=0.05)
    samples = samples_of(recipe, awake)
    trains = [p for p in model.parameters() if p.requires_grad]
    accelerator = Accelerator(cpu=True)
    llm = BaseLLM(adapted, False, accelerator)
    term = KLToBaseLoss(2.0, llm, accelerator)
    batch = (Collator(0) if way == "pad" else Packer(0, 64))(samples)
    assert way == "pad" or len(batch["input_ids"]) < 8
    term.count_tokens([batch])
    inputs = {**batch, **loss_tokens(batch["labels"], batch["kl_mask"])}
    model.train()
    target = llm.target(model, inputs)
    assert model.training and {"kl_mask", "base_inputs"}.isdisjoint(inputs)
    assert [p for p in model.parameters() if p.requires_grad] == trains
    loss = term.term(target, model(**inputs, num_items_in_batch=1).logits)
    loss.backward()
    double = copy.deepcopy(model).double().eval()
    double.zero_grad()
    if adapted:
        # What is target out must be the model without adapters, whatever is compared with it.
        double.extract_language_model = plain.extract_language_model
    total, count = definition(double, samples)
    assert count == int(term.tokens) > 8 and total > 0.1
    expected, total = 2.0 * total / count, total.item()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert term.pop() == {"kl_to_base": pytest.approx(total / count, rel=1e-5)}
    assert term.pop() == {}
    expected.backward()
    doubled = dict(double.named_parameters())
    size = max(p.grad.abs().max() for p in double.parameters() if p.grad is not None)
    assert size > 1e-2
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            wanted = doubled[name].grad
            error = (parameter.grad - (0 if wanted is None else wanted)).abs().max()
            assert error <= 1e-4 * size, name


def gradients(recipe):
    return torch.load(Path(recipe.output) / "gradients.pt")


def worst(one, other):
    assert one.keys() == other.keys()
    size = max(gradient.abs().max() for gradient in one.values())
    return max((one[name] - other[name]).abs().max() for name in one) / size


def test_the_whole_gradient_is_the_sum_of_its_parts(make):
    found = {}
    for weight in (None, 1.0, 3.0):
        recipe = make(f"w{weight}", weight=weight)
        found[weight] = spread.recorded(recipe), gradients(recipe)
    without, one, three = (found[weight][1] for weight in (None, 1.0, 3.0))
    assert worst(one, without) > 1e-2
    expected = {name: without[name] + 3 * (one[name] - without[name]) for name in one}
    assert worst(three, expected) < 1e-5
    entries = [found[weight][0].history[0] for weight in (None, 1.0, 3.0)]
    assert "kl_to_base" not in entries[0] and entries[1]["kl_to_base"] == entries[2]["kl_to_base"]
    for weight, entry in zip((1.0, 3.0), entries[1:], strict=True):
        whole = entries[0]["loss"] + weight * entry["kl_to_base"]
        assert entry["loss"] == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"device_batch_size": 1},
        {"batching": "pack"},
        {"workers": 1},
        {"gradient_checkpointing": True},
        {"bf16": True},
    ],
)
def test_a_step_is_the_same_however_it_is_carried_out(make, change, children_end):
    results = []
    for name, changes in (("plain", {}), ("other", change)):
        recipe = make(name, steps=2, learning_rates={"image_learners": 1e-2}, **changes)
        results.append((spread.recorded(recipe), gradients(recipe)))
    (plain, first), (other, second) = results
    near = 3e-2 if "bf16" in change else 1e-4
    assert other.losses == pytest.approx(plain.losses, rel=near)
    kl = [[entry["kl_to_base"] for entry in result.history] for result in (plain, other)]
    assert kl[1] == pytest.approx(kl[0], rel=near)
    assert worst(first, second) < (6e-2 if "bf16" in change else 1e-4)


def test_two_processes_are_one(make, tmp_path):
    """DDP, FSDP and adapters; a process may have no text at all beside one that has."""
    settings = {"steps": 3, "learning_rates": {"image_learners": 1e-2}, "device_batch_size": 1,
                "evaluate": Evaluate(every=3, text_after_image=5, answers=1)}  # fmt: skip
    kinds = {"ddp": {}, "fsdp": {"parallel": "fsdp"}}
    if importlib.util.find_spec("peft"):
        kinds["lora"] = {"lora": Lora(rank=2)}
    singles, doubles = [], []
    for name, changes in kinds.items():
        one = {**changes, "parallel": "ddp"}
        singles.append(make(f"{name}-1", **settings, **one))
        doubles.append(make(f"{name}-2", **settings, **changes))
    results = [spread.recorded(recipe) for recipe in singles]
    for n, recipe in enumerate(doubles):
        (tmp_path / f"{n}.yaml").write_text(recipe.to_yaml())
    paths = [tmp_path / f"{n}.yaml" for n in range(len(doubles))]
    code, _, errors = run_ranks(2, SPREAD, *paths, cwd=tmp_path, timeout=HANG)
    assert code == 0, errors[-3000:]
    for single, double, expected in zip(singles, doubles, results, strict=True):
        found = json.loads((Path(double.output) / "result.json").read_text())
        history, folders = found["history"], (Path(single.output), Path(double.output))
        for mine, theirs in zip(expected.evaluations, found["evaluations"], strict=True):
            assert mine["eval/text_after_image/kl"] >= 0
            assert theirs == pytest.approx(mine, rel=1e-4, abs=1e-5)
        lines = [(folder / "answers.jsonl").read_text() for folder in folders]
        assert lines[0] == lines[1] and len(lines[0].splitlines()) == 6
        for key in ("loss", "kl_to_base"):
            wanted = [entry[key] for entry in expected.history]
            assert [entry[key] for entry in history] == pytest.approx(wanted, rel=2e-5)
        assert worst(gradients(single), gradients(double)) < 1e-4


def test_fresh_learners_have_nothing_to_give_back(make, checkpoint, data):
    text = {"data": [DataSource(str(data / "text.jsonl"))], "text_turns": None}
    wings = {"learners": ["image", "text"], "router": None}
    settings = {"start": str(checkpoint), "wings": wings, **text}
    (entry,) = train(make("fresh", **settings)).history
    assert entry["kl_to_base"] == 0.0
    del settings["wings"]
    (entry,) = train(make("routed", **settings)).history
    # The router's sums come out of another way to compute the same attention.
    assert entry["kl_to_base"] == pytest.approx(0.0, abs=1e-6)


def test_a_strong_weight_keeps_the_kl_low(make):
    quick = {
        "steps": 30,
        "learning_rates": dict.fromkeys(("image_learners", "text_learners"), 3e-2),
    }
    last = {}
    for weight in (1e-9, 10.0):
        found = train(make(str(weight), weight=weight, **quick)).history
        last[weight] = sum(entry["kl_to_base"] for entry in found[-5:]) / 5
    assert last[10.0] < 0.5 * last[1e-9]


def test_a_run_that_was_stopped_has_the_figures_of_one_that_was_not(make):
    settings = {
        "steps": 9,
        "save_every": 2,
        "log_every": 3,
        "learning_rates": {"image_learners": 1e-2},
    }
    whole = train(make("whole", **settings))

    def stop(step, steps, metrics):
        if step == 5:
            raise KeyboardInterrupt

    recipe = make("stopped", **settings)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, watch=stop)
    result = train(recipe)
    assert without_process_metrics(result.history) == without_process_metrics(whole.history)
    assert [entry["step"] for entry in result.history] == [1, 3, 6, 9]
    assert all(entry["kl_to_base"] > 0 for entry in result.history)


def test_the_language_model_is_asked_without_dropout_and_nothing_is_left_behind(make_model):
    model, processor = make_model(text={"attention_dropout": 0.5})
    row = processor.encode(
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    )
    ids = row["input_ids"][None]
    model.train()
    state = torch.get_rng_state()
    with torch.no_grad(), as_llm(model, has_adapters=False):
        once, again = (model(ids, use_cache=False).logits for _ in range(2))
    assert torch.equal(once, again) and model.training and not WITHOUT_WINGS.get()
    assert torch.equal(torch.get_rng_state(), state)


def test_an_answer_that_becomes_other_tokens_is_refused(make, awake):
    processor = WingsProcessor.from_pretrained(awake)
    # Begins a conversation's first answer otherwise than a later one.
    header = "<|{{ message['role'] }}|>"
    odd = "{%- if message['role'] == 'assistant' and loop.index0 == 1 -%}#{%- endif -%}"
    processor.chat_template = processor.chat_template.replace(header, header + odd)
    assert odd in processor.chat_template
    data = ConversationDataset.of(make(text_turns=None), processor)
    assert "kl_mask" in data[5]
    data = ConversationDataset.of(make(), processor)
    number = next(n for n in range(4) if data.messages(n)[1])
    with pytest.raises(WingsError, match=r"talk\.jsonl line .*kl_to_base: the answer .* chat temp"):
        data[number]


def test_the_ends_of_two_conversations_are_compared():
    ids = torch.tensor([1, 2, 3, 4, 5])
    labels = torch.tensor([-100, 2, -100, 4, 5])
    alone = {"input_ids": torch.tensor([4, 4, 5]), "labels": torch.tensor([4, 4, 5])}
    sample = with_kl_mask({"input_ids": ids, "labels": labels}, alone)
    assert sample["kl_mask"].tolist() == [False, False, False, True, True]
    # A first token is foretold by nothing.
    assert sample["base_inputs"]["labels"].tolist() == [-100, 4, 5]
    longer = {"input_ids": ids, "labels": torch.tensor([-100, 2, 2, 4, 5])}
    with pytest.raises(WingsError, match="other tokens"):
        with_kl_mask({"input_ids": ids, "labels": labels}, longer)


TURNS = {"path": "t.jsonl", "share": 0.5}
GOOD = {"stage": "instruct", "output": "x", "data": [{"path": "a.json"}], "freeze_llm": True}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"freeze_llm": False}, "kl_to_base: needs the original LLM, which this run trains"),
        ({"freeze_llm": False, "text_turns": TURNS}, "original LLM"),
        ({"kl_to_base": {"weight": 0}}, r"kl_to_base\.weight: 0\.0 must be larger than 0"),
        ({"kl_to_base": {"weight": -1}}, r"kl_to_base\.weight"),
        ({"kl_to_base": {}}, "the key 'weight' is missing"),
        (
            {"stage": "align"},
            "kl_to_base: has no effect: without a text learner, .* equal the LLM's",
        ),
        ({"wings": {"text_guard": True}}, "kl_to_base: has no effect: under text_guard"),
        ({"wings": {"learners": []}}, "kl_to_base: has no effect: without a text learner"),
    ],
)
def test_kl_to_base_without_meaning_is_refused(changes, words):
    with pytest.raises(WingsError, match=words) as error:
        Recipe.from_dict({**GOOD, "kl_to_base": {"weight": 1}, **changes})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"text_turns": TURNS, "wings": {"text_guard": True}},
        {"text_turns": TURNS, "stage": "align"},
        {"lora": {"rank": 2}, "freeze_llm": None, "wings": {"text_guard": True}},
    ],
)
def test_what_it_can_mean_is_not(changes):
    recipe = Recipe.from_dict({**GOOD, "kl_to_base": {"weight": 1}, **changes})
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_a_start_under_its_guard_is_refused_before_it_is_trained(make, make_model, tmp_path):
    model, processor = make_model(**BOTH, text_guard=True)
    with pytest.raises(WingsError, match="kl_to_base: has no effect: under text_guard"):
        train(make("guarded", start=None, text_turns=None), model, processor)
