"""Composite models of transformers: each is asked as its own processor and `generate` ask it."""

import pytest
import torch
from composites import idefics3, llava_processor, qwen2_vl, save_composite
from llava import llava
from merged import language_model, save
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from wings.errors import WingsError
from wings.eval.drift import batch_sums
from wings.eval.generate import answer_items, encode
from wings.eval.items import Item, question_alone, without_sources
from wings.eval.loglikelihood import choice_likelihoods
from wings.eval.models import copy_chat_template, load_eval_model, load_llm, prompt_difference
from wings.eval.sense_drift import item_log_probs, measure_sense_drift

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return save(tmp_path_factory.mktemp("llm"), language_model())


@pytest.fixture(scope="module", params=["llava", "qwen2_vl", "idefics3"])
def folder(request, llm, tmp_path_factory):
    made = {
        "llava": lambda: (llava(llm), llava_processor()), "qwen2_vl": qwen2_vl,
        "idefics3": idefics3,
    }[request.param]()  # fmt: skip
    return save_composite(tmp_path_factory.mktemp(request.param), *made)


@pytest.fixture(scope="module")
def composite(folder):
    return load_eval_model(str(folder), CPU)


@pytest.fixture(scope="module")
def theirs(folder):
    """Model and processor, as transformers loads them."""
    model = AutoModelForImageTextToText.from_pretrained(folder)
    return model, AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    paths = [tmp_path_factory.mktemp("pictures") / f"{n}.png" for n in range(2)]
    Image.new("RGB", (30, 28), "red").save(paths[0])
    Image.linear_gradient("L").resize((60, 28)).convert("RGB").save(paths[1])
    return list(map(str, paths))


def item(*turns, answer="red", **more):
    """Turns of the user and the assistant; a tuple has pictures before its text."""

    def content(turn):
        if isinstance(turn, str):
            return turn
        *images, text = turn
        parts = [{"type": "image", "image": image} for image in images]
        return [*parts, {"type": "text", "text": text}]

    messages = tuple(
        {"role": ("user", "assistant")[n % 2], "content": content(turn)}
        for n, turn in enumerate(turns)
    )
    return Item("all", messages, answer, **more)


def questions(pictures):
    red, grey = pictures
    return [
        item((red, "Which colour?")), item("1+1?"), item((grey, red, "Which one is red?")),
        item((grey, "a?"), "grey", "And what is 2+2?"), item("A much longer question: why?"),
        item("Hi", "Hello", (red, "?")),
    ]  # fmt: skip


def inputs(processor, messages):
    """One conversation by hand, with pictures that PIL has opened."""
    messages = [
        message
        | {
            "content": [{"type": "text", "text": message["content"]}]
            if isinstance(message["content"], str)
            else [
                part | {"image": Image.open(part["image"])} if part["type"] == "image" else part
                for part in message["content"]
            ]
        }
        for message in messages
    ]
    return processor.apply_chat_template(
        [messages], tokenize=True, return_dict=True, return_tensors="pt",
        add_generation_prompt=messages[-1]["role"] == "user",
    )  # fmt: skip


def log_probs(theirs, messages, ids):
    """[N, V] before the tokens that follow a prompt, by one pass of transformers' own model."""
    model, processor = theirs
    batch = inputs(processor, messages)
    added = {"input_ids": torch.tensor([ids])}
    added |= {"attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    added |= {"mm_token_type_ids": torch.zeros(1, len(ids), dtype=torch.long)}
    batch |= {name: torch.cat([batch[name], added[name]], 1) for name in added if name in batch}
    with torch.no_grad():
        logits = model(**batch).logits
    return logits[0, -len(ids) - 1 : -1].log_softmax(-1)


def test_answers_are_those_of_each_conversation_alone(
    folder, theirs, composite, pictures, make_runner
):
    model, processor = theirs
    asked, alone = questions(pictures), []
    for one in asked:
        batch = inputs(processor, one.messages)
        new = model.generate(**batch, max_new_tokens=5, do_sample=False)
        new = new[0, batch["input_ids"].shape[1] :]
        alone.append(composite.tokenizer.decode(new, skip_special_tokens=True))
    assert len(set(alone)) > 3
    assert composite.senses == ("image",) and composite.kind == model.config.model_type
    together = answer_items(composite.model, composite.processor, asked, max_new_tokens=5)
    assert together == alone
    runner = make_runner(max_new_tokens=5, batch_size=2)
    assert runner.answers(composite, asked, "asked") == alone
    # Another load of the same folder finds the answers.
    again = load_eval_model(str(folder), CPU)
    again.model.generate = None
    assert make_runner(max_new_tokens=5).answers(again, asked, "asked") == alone


def test_likelihoods_are_those_of_one_pass_over_prompt_and_choice(theirs, composite, pictures):
    choices = ("red", "b", "c", "It is grey.")
    asked = [
        item((pictures[1], "?"), scoring="likelihood", choices=choices, answer="b"),
        item("Which letter?", scoring="likelihood", choices=choices, answer="c"),
    ]
    counted = []
    results = choice_likelihoods(
        composite.model, composite.processor, asked, on_batch=counted.append
    )
    assert counted == [4, 4]
    for one, likelihoods in zip(asked, results, strict=True):
        for choice, found in zip(choices, likelihoods, strict=True):
            ids = composite.tokenizer.encode(choice, add_special_tokens=False)
            rows = log_probs(theirs, one.messages, ids)
            expected = rows.gather(1, torch.tensor(ids)[:, None]).sum().item()
            assert found.total == pytest.approx(expected, rel=1e-4)
            assert found.tokens == len(ids)
            assert found.greedy == (rows.argmax(-1).tolist() == ids)


def test_drift_after_an_image_is_measured_on_the_same_tokens(
    theirs, composite, llm, pictures, make_runner
):
    one = item((pictures[0], "Which colour?"), "red", "2+2?", answer="four")
    base = load_llm(str(llm), CPU)
    assert not prompt_difference(base, composite)
    (found,) = measure_sense_drift(base, composite, [one], make_runner()).answers
    expected, ids = item_log_probs(base, question_alone(one), None)
    assert found.tokens == len(ids) == len("four") + 1
    for sums, messages in (
        (found.alone, question_alone(one).messages),
        (found.after, one.messages),
    ):
        rows = log_probs(theirs, messages, ids.tolist())
        kl = (expected.exp() * (expected - rows)).sum().item()
        assert sums == pytest.approx(kl, rel=1e-3) and kl > 0.01
    words = item_log_probs(base, without_sources(one), len(ids))[0]
    kl = (expected.exp() * (expected - words)).sum().item()
    assert found.words == pytest.approx(kl, rel=1e-3)


def test_an_image_before_does_not_move_the_text_of_a_drift(theirs, composite, llm, pictures):
    ids = torch.arange(2, 42).reshape(2, 20)
    mask = torch.ones_like(ids)
    base = load_llm(str(llm), CPU).model
    whole = batch_sums(base, composite.model, ids, mask, mask)
    with torch.no_grad():
        composite.model(**inputs(theirs[1], item((pictures[1], "a?")).messages))
    parts = batch_sums(base, composite.model, ids, mask, mask, max_logits=1)
    assert torch.allclose(whole, parts, rtol=1e-4)


def test_a_role_whose_content_the_template_reads_as_a_string_gets_one(pictures):
    processor = llava_processor()
    processor.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}"
        "{% set messages = messages[1:] %}{% endif %}"
    ) + processor.chat_template.replace("message['content'] is string", "false")
    asked = item((pictures[0], "a"), "b", "c").messages
    batch = encode(processor, [[{"role": "system", "content": "Be brief."}, *asked]])
    text = processor.decode(batch["input_ids"][0]).replace("<image>" * 4, "<image>")
    turns = ("<|user|><image>a", "<|assistant|>b", "<|user|>c")
    assert text == f"Be brief.{'<|end|>'.join(turns)}<|end|><|assistant|>"


def test_a_language_model_without_a_template_reads_what_the_processor_writes(llm, tmp_path):
    """A processor adds the tokenizer's BOS; a tokenizer's chat template has to write it."""
    processor = llava_processor()
    tokenizer = processor.tokenizer
    tokenizer.add_special_tokens({"bos_token": "<|system|>"})
    tokenizer.pad_token = None
    tokenizer.backend_tokenizer.post_processor = bos_first(tokenizer)
    save_composite(tmp_path / "llava", llava(llm), processor)
    composite = load_eval_model(str(tmp_path / "llava"), CPU)
    base = load_llm(str(llm), CPU)
    assert composite.tokenizer.pad_token == tokenizer.eos_token
    base.tokenizer.chat_template = None
    base.tokenizer.add_special_tokens({"bos_token": "<|system|>"})
    assert copy_chat_template(base, composite) and not prompt_difference(base, composite)
    question = [{"role": "user", "content": "a"}]
    ids = base.tokenizer.apply_chat_template(question, return_dict=True)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    base.tokenizer.chat_template = "<|user|>{{ messages[0]['content'] }}"
    assert prompt_difference(base, composite)


def bos_first(tokenizer):
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.bos_token
    return TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.convert_tokens_to_ids(bos))]
    )


def test_what_cannot_be_loaded_or_asked_is_a_sentence(llm, pictures, tmp_path):
    model = llava(llm)
    bare = save(tmp_path / "bare", model, llava_processor().tokenizer)
    with pytest.raises(WingsError, match=r"No processor of a model of images and text .*bare"):
        load_eval_model(str(bare), CPU)
    processor = llava_processor()
    processor.chat_template = processor.tokenizer.chat_template = None
    silent = save_composite(tmp_path / "silent", model, processor)
    with pytest.raises(WingsError, match=r"silent.*LlavaProcessor has no chat template"):
        load_eval_model(str(silent), CPU)
    whole = save_composite(tmp_path / "whole", model, llava_processor())
    model.save_pretrained(
        whole, state_dict={n: t for n, t in model.state_dict().items() if "projector" not in n}
    )
    with pytest.raises(WingsError, match=r"whole' lacks .*multi_modal_projector"):
        load_eval_model(str(whole), CPU)
    save_composite(whole, model, llava_processor())
    composite = load_eval_model(str(whole), CPU)
    for content, words in (
        (("gone.png", "?"), "gone.png"),
        ("<image> it?", "read <image> in .*'<image> it\\?'"),
    ):
        with pytest.raises(WingsError, match=words):
            answer_items(composite.model, composite.processor, [item(content)])
