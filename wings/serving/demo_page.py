"""The demo's page: a chat with images, a switch for the learners, and the router's weights."""

import re
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, ImageDraw

from wings.config import WingsConfig
from wings.endings import ending_of
from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor

from .answer import Answer, stream_answer
from .router_plot import router_figure

# Answers that are generated at the same time; more requests wait.
AT_ONCE = 2
QUESTIONS = ("What is in this picture?", "What is a picture made of?")
FAILED = "No answer"
NO_INPUT = "The message is empty: type a question or add an image."

Example = tuple[str, Sequence[str | Path]]


def build_page(
    model: WingsForCausalLM,
    processor: WingsProcessor,
    title: str,
    max_new_tokens: int = 256,
    examples: Sequence[Example] | None = None,
) -> gr.Blocks:
    """Builds the page; `launch` of what is returned serves it.

    Args:
        model: in evaluation mode, on its device.
        processor: of the model.
        title: of the page.
        max_new_tokens: longest answer, in tokens.
        examples: questions with the image files they are asked about; default: one about a drawn
            image, and one without.
    """

    def respond(message: Mapping, history: list, learners: bool) -> Iterator[tuple]:
        """Streams the answer, then the plot and a sentence about it."""
        try:
            messages = [*past_messages(history), user_message(message)]
            answer = Answer("")
            for answer in stream_answer(model, processor, messages, max_new_tokens, learners):
                yield answer.text, gr.skip(), gr.skip()
            yield answer.text, *explained(model.config, answer, learners)
        except Exception as error:
            if not isinstance(error, WingsError):
                # A fault of this program, which its owner should see.
                traceback.print_exception(error)
            # As a message: an error of Gradio's covers the page and locks its text box.
            sentence = visible(ending_of(error)[1])
            yield {"content": sentence, "metadata": {"title": FAILED}}, None, ""

    with gr.Blocks(title=title, analytics_enabled=False, fill_height=True) as page:
        gr.Markdown(f"# {title}\n{described(model.config)}")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=280, render=False) as side:
                switch = gr.Checkbox(
                    True,
                    label="Learners on",
                    info="For the next answer. Compare with the retry button below the last one.",
                )
                plot = gr.Plot(label="Router weights", show_label=False)
                note = gr.Markdown()
            with gr.Column(scale=3, min_width=320):
                gr.ChatInterface(
                    respond,
                    multimodal=True,
                    chatbot=gr.Chatbot(label="Chat", height=420, buttons=["copy"]),
                    textbox=gr.MultimodalTextbox(
                        file_types=["image"],
                        file_count="multiple",
                        # While an answer grows; ending it ends its generation.
                        stop_btn=True,
                        placeholder="Ask something; add images with the button on the left.",
                        show_label=False,
                    ),
                    examples=[
                        [{"text": text, "files": [str(file) for file in files]}]
                        for text, files in examples or drawn_examples()
                    ],
                    run_examples_on_click=False,
                    cache_examples=False,
                    additional_inputs=[switch],
                    additional_outputs=[plot, note],
                    concurrency_limit=AT_ONCE,
                    api_name="chat",
                )
            side.render()
    return page


def user_message(message: Mapping) -> dict[str, Any]:
    """A message of Gradio's text box, `{"text", "files"}`, as the processor takes it.

    Raises:
        WingsError: neither a text nor a file.
    """
    parts: list[dict[str, Any]] = [
        {"type": "image", "image": file["path"] if isinstance(file, Mapping) else file}
        for file in message.get("files") or ()
    ]
    if text := (message.get("text") or "").strip():
        parts.append({"type": "text", "text": text})
    if not parts:
        raise WingsError(NO_INPUT)
    return {"role": "user", "content": parts}


def past_messages(history: Sequence[Mapping]) -> list[dict[str, Any]]:
    """Gradio's history as messages, without questions that got no answer or an error."""
    messages: list[dict[str, Any]] = []
    for message, answer in pairwise(history):
        if (message["role"], answer["role"]) == ("user", "assistant") and not failed(answer):
            for one in (message, answer):
                content = one["content"] if isinstance(one["content"], list) else [one["content"]]
                messages.append({"role": one["role"], "content": [*map(message_part, content)]})
    return messages


def failed(answer: Mapping) -> bool:
    """True for an error that was shown instead of an answer."""
    return (answer.get("metadata") or {}).get("title") == FAILED


def message_part(part: Any) -> dict[str, Any]:
    """A part of a message in Gradio's history as the processor takes it.

    A client that sends no history back gets the text and files as they were given; the page sends
    what the chat shows.
    """
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if part.get("type") == "text":
        return {"type": "text", "text": part["text"]}
    return {"type": "image", "image": part.get("file", part)["path"]}


def visible(sentence: str) -> str:
    """A sentence without the folders of quoted file names, which are the server's."""
    return re.sub(r"'/[^']*/([^'/]+)'", r"'\1'", sentence)


def described(config: WingsConfig) -> str:
    """One line about a checkpoint's learners and router."""
    layers = config.layers_with_learners
    if not layers:
        return "This checkpoint has no learners, so the switch changes nothing unless it has LoRA."
    router = f"the {config.router} router" if config.is_routed else "no router"
    guard = ", and a text guard" if config.text_guard else ""
    names = " and ".join(config.learners)
    return f"{names.capitalize()} learners in {len(layers)} blocks, {router}{guard}."


def explained(config: WingsConfig, answer: Answer, learners: bool) -> tuple[Any, str]:
    """The plot of an answer, None where there is none, and a sentence about it."""
    if not learners:
        return None, "Learners were off: the LLM read the image features alone."
    if answer.weights is None:
        return None, "No learner acted on this answer: the conversation has no image to attend to."
    if not config.is_routed:
        return None, "This checkpoint has no router: each learner that sees something has weight 1."
    figure = router_figure(answer.weights, config.learners, config.layers_with_learners)
    return figure, "Weight of each learner in each block, mean over the tokens of the last answer."


def drawn_examples() -> list[Example]:
    """A question about a drawn image, and one about text."""
    image = Image.new("RGB", (320, 240), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((40, 80, 140, 180), fill="royalblue")
    draw.ellipse((180, 70, 290, 180), fill="crimson")
    file = Path(tempfile.mkdtemp(prefix="wings-demo-")) / "shapes.png"
    image.save(file)
    return [(QUESTIONS[0], [file]), (QUESTIONS[1], [])]
