"""`wings demo`: answers with learners and without, the router's weights, and a real browser."""

import os
import re
import runpy
import shutil
import signal
import time
import urllib.request
from pathlib import Path

import pytest
import torch
import yaml
from audio_models import tiny_audio
from served import ROOT, Program, answer, free_port, huge_png, model_with, png, save_noisy
from tiny import VISION
from videos import make_video

from wings.cli import main
from wings.errors import WingsError
from wings.extras import NAME
from wings.processing.audio_reader import load_audio

gradio = pytest.importorskip("gradio", reason="needs wings-lorra[demo]")
gradio_client = pytest.importorskip("gradio_client", reason="needs wings-lorra[demo]")

from wings.serving.answer import answer_weights, stream_answer  # noqa: E402
from wings.serving.demo import launch  # noqa: E402
from wings.serving.demo_files import examples_of  # noqa: E402
from wings.serving.demo_page import (  # noqa: E402
    build_page,
    described,
    explained,
    user_message,
    visible,
)

LENGTH = 12
QUESTION = "Which colour?"
SPACE = ROOT / "examples" / "space"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    contents = {
        "red.png": png("red"), "blue.png": png("blue"), "huge.png": huge_png(), "bad.png": b"bad",
    }  # fmt: skip
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    (_, (tones,)), *_ = examples_of(["audio"])
    tones.rename(folder / "tones.wav")
    return folder


@pytest.fixture(scope="module")
def both():
    return model_with(image=VISION, audio=tiny_audio("whisper", pool=4))


@pytest.fixture(scope="module")
def address(checkpoint):
    """The page's address, served by this process."""
    page = build_page(*checkpoint[1:], "tiny", LENGTH)
    port = free_port()
    launch(page, "127.0.0.1", port, share=False)
    yield f"http://127.0.0.1:{port}"
    page.close(verbose=False)


@pytest.fixture
def client(address):
    """A new visitor."""
    return gradio_client.Client(address, verbose=False)


def said(text, *images):
    parts = [{"type": "image", "image": str(image)} for image in images]
    return {
        "role": "user",
        "content": [*parts, *([{"type": "text", "text": text}] if text else [])],
    }


def message(text, *images):
    return {"text": text, "files": [gradio_client.handle_file(str(image)) for image in images]}


def ask(client, text, *images, learners=True):
    """The answer, or the sentence in its place, and the sentence below the plot."""
    found, _, note = client.predict(message(text, *images), learners, api_name="/chat")
    return found["content"] if isinstance(found, dict) else found, note


def expected(checkpoint, *messages, learners=True):
    _, model, processor = checkpoint
    if learners:
        return answer(model, processor, messages, LENGTH).strip()
    with model.without_wings():
        return answer(model, processor, messages, LENGTH).strip()


def test_the_switch_turns_learners_off_for_one_answer(client, checkpoint, files):
    chat = said(QUESTION, files / "red.png")
    on = expected(checkpoint, chat)
    off = expected(checkpoint, chat, learners=False)
    assert on != off
    found, note = ask(client, QUESTION, files / "red.png", learners=False)
    assert found == off and "were off" in note
    client.reset_session()
    found, note = ask(client, QUESTION, files / "red.png")
    assert found == on and note.startswith("Weight of each learner")


def test_two_visitors_with_different_switches_do_not_meet(address, checkpoint, files):
    chat = said(QUESTION, files / "red.png")
    visitors = [gradio_client.Client(address, verbose=False) for _ in range(2)]
    for _ in range(3):
        jobs = []
        for visitor, learners in zip(visitors, (True, False), strict=True):
            visitor.reset_session()
            given = message(QUESTION, files / "red.png")
            jobs.append(visitor.submit(given, learners, api_name="/chat"))
        for job, learners in zip(jobs, (True, False), strict=True):
            assert job.result()[0] == expected(checkpoint, chat, learners=learners)


def test_a_turn_sees_the_images_of_earlier_ones(client, checkpoint, files):
    first = said(QUESTION, files / "red.png")
    one, _ = ask(client, QUESTION, files / "red.png")
    reply = {"role": "assistant", "content": one}
    two, _ = ask(client, "And this?", files / "blue.png")
    second = said("And this?", files / "blue.png")
    assert two == expected(checkpoint, first, reply, second) != expected(checkpoint, second)


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("What?", "bad.png", "'bad.png' is not a whole, readable image"),
        ("What?", "huge.png", "pixels"),
        ("", None, "The message is empty"),
        ("  ", None, "The message is empty"),
    ],
)
def test_a_turn_that_fails_is_a_sentence_and_forgotten(
    text, name, words, client, checkpoint, files
):
    one, _ = ask(client, QUESTION, files / "red.png")
    sentence, note = ask(client, text, *([files / name] if name else []))
    assert words in sentence and sentence.endswith(".") and str(files) not in sentence
    assert "tmp" not in sentence and not note
    two, _ = ask(client, "Again?")
    reply = {"role": "assistant", "content": one}
    chat = said(QUESTION, files / "red.png"), reply, said("Again?")
    assert two == expected(checkpoint, *chat)


@pytest.fixture
def lengths(checkpoint, monkeypatch):
    """Lengths of the generations that have ended; none of them ends by itself for a long time."""
    model, found = checkpoint[1], []
    generate = model.generate

    def counted(**options):
        ids = generate(**options)
        found.append(ids.shape[1])
        return ids

    monkeypatch.setattr(model, "generate", counted)
    monkeypatch.setattr(model.generation_config, "eos_token_id", None)
    return found


def test_an_answer_grows_and_ends_where_it_is_closed(checkpoint, files, lengths):
    _, model, processor = checkpoint
    answers = stream_answer(model, processor, [said(QUESTION, files / "red.png")], 5000)
    first = next(answers).text
    longer = next(one.text for one in answers if one.text != first)
    assert longer.startswith(first)
    # Closing waits for the end of its thread.
    answers.close()
    assert len(lengths) == 1 and lengths[0] < 2000


def test_a_visitor_who_stops_an_answer_ends_its_generation(checkpoint, lengths):
    page = build_page(*checkpoint[1:], "long", 5000)
    port = free_port()
    launch(page, "127.0.0.1", port, share=False)
    visitor = gradio_client.Client(f"http://127.0.0.1:{port}", verbose=False)
    job = visitor.submit(message(QUESTION), True, api_name="/chat")
    while len(job.outputs()) < 2:
        time.sleep(0.05)
    job.cancel()
    end = time.monotonic() + 30
    while not lengths and time.monotonic() < end:
        time.sleep(0.05)
    page.close(verbose=False)
    assert len(lengths) == 1 and lengths[0] < 2000


def test_an_error_in_the_middle_ends_the_answer(checkpoint, monkeypatch):
    _, model, processor = checkpoint
    answers = stream_answer(model, processor, [said(QUESTION)], LENGTH)
    next(answers)

    def fails(*args, **kwargs):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(model.lm_head, "forward", fails)
    with pytest.raises(RuntimeError, match="no memory left"):
        list(answers)


@pytest.mark.parametrize("router", ["attended", "position", "modality"])
def test_the_weights_are_those_of_the_steps_that_chose_the_tokens(router, tmp_path, files):
    model, processor = save_noisy(tmp_path, router=router)
    batch = processor.apply_chat_template(
        [said(QUESTION, files / "red.png")],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    ids = model.generate(**batch, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    (found,) = answer_weights(model, batch, ids).values()
    # One decoding step after the other, as generate made them.
    prompt = batch["input_ids"].shape[1]
    with torch.no_grad():
        out = model(**batch, use_cache=True, output_router_weights=True)
        steps = [[weights[0, -1] for weights in out.router_weights]]
        for n in range(prompt, ids.shape[1] - 1):
            out = model(
                ids[:, n : n + 1], past_key_values=out.past_key_values, output_router_weights=True
            )
            steps.append([weights[0, -1] for weights in out.router_weights])
    mean = torch.stack([torch.stack(step) for step in steps]).mean(0)
    assert found.shape == (2, 2) and torch.allclose(found, mean, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "line", "with_image", "without"),
    [
        ({}, "Image and text learners in 2 blocks, the attended router.", "Weight of", "Weight of"),
        (
            {"router": None, "text_guard": True},
            "Image and text learners in 2 blocks, no router, and a text guard.",
            "has no router", "No learner acted",
        ),
        (
            {"learners": (), "prefix_length": 2, "router": None},
            "This checkpoint has no learners", "No learner acted", "No learner acted",
        ),
    ],
    ids=["routed", "guarded", "prefix"],
)  # fmt: skip
def test_any_checkpoint_is_described(options, line, with_image, without, tmp_path, files):
    model, processor = save_noisy(tmp_path, **options)
    assert described(model.config).startswith(line)
    for images, words in (([files / "red.png"], with_image), ([], without)):
        *_, last = stream_answer(model, processor, [said(QUESTION, *images)], 4)
        figure, note = explained(model.config, last, True)
        assert note.startswith(words) or words in note
        assert (figure is not None) == note.startswith("Weight of")


def test_the_weights_of_two_senses_are_told_apart(both, files):
    """Those of one sense in a conversation with the other too, and a panel for each that acts."""
    model, processor = both
    heard = {"type": "audio", "audio": str(files / "tones.wav")}
    question = said(QUESTION, files / "red.png")
    question["content"].insert(1, heard)
    for messages, acting in (
        ([question], ["image", "audio"]), ([said(QUESTION, files / "red.png")], ["image"]),
        ([{"role": "user", "content": [heard]}], ["audio"]), ([said(QUESTION)], []),
    ):  # fmt: skip
        *_, last = stream_answer(model, processor, messages, 4)
        assert [*last.weights] == acting
        assert all(one.shape == (2, 2) for one in last.weights.values())
        figure, note = explained(model.config, last, True)
        assert len(figure.axes if figure else []) == len(acting)
        assert note.startswith("Weight of") if acting else "has no image or sound to" in note
    batch = processor.apply_chat_template(
        [question], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ids = model.generate(**batch, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    with torch.no_grad():
        values = {name: one for name, one in batch.items() if name.endswith("values")}
        out = model(ids, **values, output_router_weights=True)
    steps = [one[0, batch["input_ids"].shape[1] - 1 : -1].mean(0) for one in out.router_weights]
    found = answer_weights(model, batch, ids)
    assert torch.allclose(torch.cat([found["image"], found["audio"]], 1), torch.stack(steps))


@pytest.mark.parametrize(
    ("name", "senses", "kind"),
    [
        ("a.png", ("image",), "image"), ("a.mp4", ("image", "audio"), "video"),
        ("a.MKV", ("image",), "video"), ("a.gif", ("image",), "image"),
        ("a.wav", ("image", "audio"), "audio"), ("a.flac", ("audio",), "audio"),
        ("recording.webm", ("audio",), "audio"), ("nothing", ("image", "audio"), "image"),
        ("nothing", ("audio",), "audio"),
    ],
)  # fmt: skip
def test_kinds_of_files(name, senses, kind):
    assert user_message({"files": [{"path": f"/x/{name}"}]}, senses)["content"] == [
        {"type": kind, kind: f"/x/{name}"}
    ]


def test_a_file_of_another_kind_is_refused_with_what_the_model_takes():
    with pytest.raises(WingsError, match=r"^'a.png' is of the kind image, .* takes audio\.$"):
        user_message({"files": ["/x/a.png"]}, ("audio",))
    with pytest.raises(WingsError, match="of the kind audio, and this model takes image and video"):
        user_message({"files": ["/x/a.wav"]}, ("image",))


def test_a_page_of_a_model_that_hears_takes_sounds_and_one_of_both_takes_all(both, files):
    model, processor = both
    page = build_page(model, processor, "both", LENGTH)
    port = free_port()
    launch(page, "127.0.0.1", port, share=False)
    (box,) = [one for one in page.blocks.values() if isinstance(one, gradio.MultimodalTextbox)]
    assert box.file_types == ["image", "video", "audio"] and "microphone" in box.sources
    assert box.placeholder == "Ask something; add images, videos or sounds."
    client = gradio_client.Client(f"http://127.0.0.1:{port}", verbose=False)
    (files / "a.mp4").write_bytes(make_video())
    names = ("tones.wav", "a.mp4", "red.png")
    found, _ = ask(client, QUESTION, *(files / name for name in names))
    kinds = ("audio", "video", "image")
    parts = [{"type": k, k: str(files / n)} for k, n in zip(kinds, names, strict=True)]
    first = {"role": "user", "content": [*parts, {"type": "text", "text": QUESTION}]}
    assert found == answer(model, processor, [first], LENGTH).strip()
    again, _ = ask(client, "And?")
    chat = [first, {"role": "assistant", "content": found}, said("And?")]
    assert again == answer(model, processor, chat, LENGTH).strip()
    page.close(verbose=False)


def test_examples_are_of_what_the_model_can_do():
    asked = {senses: examples_of(senses) for senses in (("image",), ("audio",), ("image", "audio"))}
    endings = {k: [[Path(f).suffix for f in files] for _, files in v] for k, v in asked.items()}
    assert endings == {
        ("image",): [[".png"], []], ("audio",): [[".wav"], []],
        ("image", "audio"): [[".png"], [".wav"], []],
    }  # fmt: skip
    assert len(load_audio(asked[("audio",)][0][1][0], 16_000)) == 16_000


def test_paths_of_the_server_are_not_shown():
    assert visible("Image '/tmp/a b/c.png' is bad: '/x/y'.") == "Image 'c.png' is bad: 'y'."


def test_the_command_ends_with_ctrl_c(checkpoint):
    program = Program("demo", str(checkpoint[0]))
    assert f"The demo of {checkpoint[0].name}" in program.line
    with urllib.request.urlopen(program.url) as found:
        page = found.read().decode()
    assert "fonts.googleapis.com/css" not in page
    assert program.end(signal.SIGINT) == 0
    assert "Traceback" not in program.errors


def test_what_cannot_be_shown_is_a_sentence(tmp_path, capsys):
    assert main(["demo", str(tmp_path / "nowhere"), "--port", "0"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("wings demo: ") and "nowhere" in said and said.count("\n") == 1


def test_the_space_is_ready_and_shows_the_same_page(monkeypatch):
    front, page = re.fullmatch(
        r"---\n(.*?)---\n(.*)", (SPACE / "README.md").read_text(encoding="utf-8"), re.DOTALL
    ).groups()
    front = yaml.safe_load(front)
    assert front["sdk"] == "gradio" and (SPACE / front["app_file"]).is_file()
    # A Space installs this release of Gradio besides its requirements.
    assert front["sdk_version"].partition(".")[0] == gradio.__version__.partition(".")[0]
    assert (SPACE / "requirements.txt").read_text() == f"{NAME}[demo]\n"
    shown = []
    monkeypatch.setattr("wings.serving.demo.demo", lambda *a, **options: shown.append((a, options)))
    names = runpy.run_path(str(SPACE / front["app_file"]), run_name="__main__")
    # The address at which Hugging Face looks for the page.
    assert shown == [((names["MODEL"],), {"host": "0.0.0.0", "port": 7860})]
    assert front["models"] == [names["MODEL"]] and "MODEL" in page


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_both_answers_and_asks_no_other_host(address, checkpoint, files):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chat = said(QUESTION, files / "red.png")
    on = expected(checkpoint, chat)
    off = expected(checkpoint, chat, learners=False)
    assert on != off
    others = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1100, "height": 720})
        page.on("request", lambda one: others.append(one.url))
        page.goto(address)
        page.wait_for_selector("textarea")
        page.set_input_files("input[type=file]", str(files / "red.png"))
        page.fill("textarea", QUESTION)
        page.keyboard.press("Enter")
        page.wait_for_selector("text=Weight of each learner")
        page.wait_for_selector("img[alt*=plot], .plot-container img, [data-testid=matplotlib] img")
        first = page.inner_text(".bot .prose")
        page.uncheck("input[type=checkbox]")
        page.click("button[aria-label=Retry], button[title=Retry]")
        page.wait_for_selector("text=Learners were off")
        second = page.inner_text(".bot .prose")
        if folder := os.environ.get("WINGS_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/demo.png")
        browser.close()
    assert [first.strip(), second.strip()] == [on, off]
    own = (address, "data:", "blob:")
    assert not [url for url in others if not url.startswith(own)]
