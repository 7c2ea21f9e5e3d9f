"""The demo's page: a chat with what a model sees and hears, and the weights of its learners."""

import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import gradio as gr

from wings.config import WingsConfig
from wings.endings import ending_of
from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.item_encoder import AUDIO
from wings.processing.processor import WingsProcessor
from wings.processing.video_parts import VIDEO
from wings.sense import IMAGE, Sense

from .answer import Answer, stream_answer
from .demo_files import Example, examples_of, kind_of, kinds_of, listed
from .router_plot import router_figure

# Answers that are generated at the same time; more requests wait.
AT_ONCE = 2
FAILED = "No answer"
NOUNS = {IMAGE: "image", AUDIO: "sound"}
MANY = {IMAGE: "images", VIDEO: "videos", AUDIO: "sounds"}
NO_INPUT = "The message is empty: type a question or add a file."


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
        examples: questions with the files they are asked about; default: one about a drawn image,
            one about a tone, as the model can, and one without.
    """
    senses = tuple(processor.senses)
    kinds = kinds_of(senses)
    many = [MANY[kind] for kind in kinds]

    def respond(message: Mapping, history: list, learners: bool) -> Iterator[tuple]:
        """Streams the answer, then the plot and a sentence about it."""
        try:
            messages = [*past_messages(history, senses), user_message(message, senses)]
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
                        file_types=kinds,
                        sources=["upload", "microphone"] if AUDIO in senses else ["upload"],
                        file_count="multiple",
                        # While an answer grows; ending it ends its generation.
                        stop_btn=True,
                        placeholder=f"Ask something; add {listed(many, 'or')}.",
                        show_label=False,
                    ),
                    examples=[
                        [{"text": text, "files": [str(file) for file in files]}]
                        for text, files in examples or examples_of(senses)
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


def user_message(message: Mapping, senses: Sequence[str]) -> dict[str, Any]:
    """A message of Gradio's text box, `{"text", "files"}`, as the processor takes it.

    Raises:
        WingsError: neither a text nor a file, or a file of a kind that the model does not take.
    """
    files = message.get("files") or ()
    parts = [
        file_part(file["path"] if isinstance(file, Mapping) else file, senses) for file in files
    ]
    if text := (message.get("text") or "").strip():
        parts.append({"type": "text", "text": text})
    if not parts:
        raise WingsError(NO_INPUT)
    return {"role": "user", "content": parts}


def file_part(path: str, senses: Sequence[str]) -> dict[str, Any]:
    """A visitor's file as a part of a message."""
    kind = kind_of(path, senses)
    return {"type": kind, kind: path}


def past_messages(history: Sequence[Mapping], senses: Sequence[str]) -> list[dict[str, Any]]:
    """Gradio's history as messages, without questions that got no answer or an error."""
    messages: list[dict[str, Any]] = []
    for message, answer in pairwise(history):
        if (message["role"], answer["role"]) == ("user", "assistant") and not failed(answer):
            for one in (message, answer):
                content = one["content"] if isinstance(one["content"], list) else [one["content"]]
                parts = [message_part(part, senses) for part in content]
                messages.append({"role": one["role"], "content": parts})
    return messages


def failed(answer: Mapping) -> bool:
    """True for an error that was shown instead of an answer."""
    return (answer.get("metadata") or {}).get("title") == FAILED


def message_part(part: Any, senses: Sequence[str]) -> dict[str, Any]:
    """A part of a message in Gradio's history as the processor takes it.

    A client that sends no history back gets the text and files as they were given; the page sends
    what the chat shows.
    """
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if part.get("type") == "text":
        return {"type": "text", "text": part["text"]}
    return file_part(part.get("file", part)["path"], senses)


def visible(sentence: str) -> str:
    """A sentence without the folders of quoted file names, which are the server's."""
    return re.sub(r"'/[^']*/([^'/]+)'", r"'\1'", sentence)


def described(config: WingsConfig) -> str:
    """One line about the learners and the router of each sense of a checkpoint."""
    lines = [_described(sense) for sense in config.senses.values() if sense.layers]
    if not lines:
        return "This checkpoint has no learners, so the switch changes nothing unless it has LoRA."
    return " ".join(lines)


def _described(sense: Sense) -> str:
    router = f"the {sense.router} router" if sense.is_routed else "no router"
    guard = ", and a text guard" if sense.guard else ""
    names = " and ".join(sense.learners)
    return f"{names.capitalize()} learners in {len(sense.layers)} blocks, {router}{guard}."


def explained(config: WingsConfig, answer: Answer, learners: bool) -> tuple[Any, str]:
    """The plot of an answer, None where there is none, and a sentence about it."""
    nouns = [NOUNS.get(name, name) for name in config.senses]
    if not learners:
        return None, f"Learners were off: the LLM read the {listed(nouns)} features alone."
    if not answer.weights:
        one = " or ".join(nouns)
        return None, f"No learner acted on this answer: the conversation has no {one} to attend to."
    routed = {name: w for name, w in answer.weights.items() if config.senses[name].is_routed}
    if not routed:
        return None, "This checkpoint has no router: each learner that sees something has weight 1."
    figure = router_figure(routed, config.senses)
    return figure, "Weight of each learner in each block, mean over the tokens of the last answer."
