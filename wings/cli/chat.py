"""`wings chat`: chats with a saved checkpoint in the terminal."""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from rich.console import Console
from rich.text import Text
from transformers import (
    Cache,
    GenerationMixin,
    PreTrainedModel,
    ProcessorMixin,
    TextStreamer,
)
from transformers.utils import logging

from wings.endings import ending_of
from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.model.checkpoint import validate_is_wings
from wings.model.load_composite import load_composite, load_composite_processor
from wings.processing.processor import WingsProcessor
from wings.processing.vision_language import encode_conversations
from wings.saved_files import reading
from wings.upstream.auto_models import reads_images_and_text
from wings.upstream.cache_name import NAME, cache_of
from wings.upstream.configuration import read_config_dict

from .chat_files import picture_parts, sound_parts, video_parts
from .terminal import make_console

# Commands that add a file to the next turn.
FILES = {"/image": picture_parts, "/audio": sound_parts, "/video": video_parts}
YOU, WINGS = Text("you    ", style="bold"), Text("wings  ", style="bold")
HELP = "/image, /audio and /video FILE add to the next turn, /new starts again, /quit exits"


class ChatSession:
    """A conversation with a model, which reads it from its beginning in every turn.

    Attributes:
        messages: so far.
        items: parts of the user's next turn before its text: images and sounds that are read.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        self.model = model
        self.processor = processor
        self.clear()

    def clear(self) -> None:
        """Starts a new session."""
        self.messages: list[dict] = []
        self.items: list[dict] = []
        self.forget()

    def forget(self) -> None:
        """Drops what is stored of earlier turns beside the messages."""

    def say(self, text: str, max_new_tokens: int, streamer: TextStreamer | None = None) -> str:
        """Generates a greedy answer and adds both turns to the session.

        After an error, or an answer that is stopped in its middle, the session is as it was before
        the turn, without the turn's images and sounds.
        """
        try:
            return self._say(text, max_new_tokens, streamer)
        except BaseException:
            # A cache may hold a part of the turn, and one of the items may be the fault.
            self.forget()
            self.items = []
            raise

    def _say(self, text: str, max_new_tokens: int, streamer: TextStreamer | None) -> str:
        turn = {"role": "user", "content": [*self.items, {"type": "text", "text": text}]}
        messages = [*self.messages, turn]
        answer = self._answer(messages, max_new_tokens, streamer).strip()
        self.messages = [*messages, {"role": "assistant", "content": answer}]
        self.items = []
        return answer

    def _answer(
        self, messages: list[dict], max_new_tokens: int, streamer: TextStreamer | None
    ) -> str:
        batch = encode_conversations(self.processor, [messages])
        batch = batch.to(self.model.device, self.model.dtype)
        # True for every such model, but not declared by PreTrainedModel.
        assert isinstance(self.model, GenerationMixin)
        out = self.model.generate(
            **batch, max_new_tokens=max_new_tokens, do_sample=False, streamer=streamer
        )
        new = out[0, batch["input_ids"].shape[1] :]
        return str(self.processor.tokenizer.decode(new, skip_special_tokens=True))


class CachedSession(ChatSession):
    """A conversation with a Wings model; earlier turns are read from its cache.

    Attributes:
        cache: of the earlier turns.
        cached: `[T]`, the token ids in the cache.
    """

    model: WingsForCausalLM
    processor: WingsProcessor

    def forget(self) -> None:
        """Drops the cache; the next turn is computed from the beginning."""
        self.cache: Cache | None = None
        self.cached = torch.empty(0, dtype=torch.long)

    def _answer(
        self, messages: list[dict], max_new_tokens: int, streamer: TextStreamer | None
    ) -> str:
        batch = self.processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.model.device)
        ids = batch["input_ids"]
        inputs: dict[str, Any] = {**batch, NAME: self._cache_for(ids[0].cpu())}
        out = self.model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            return_dict_in_generate=True,
            streamer=streamer,
        )
        self.cache = cache_of(out)
        length = 0 if self.cache is None else self.cache.get_seq_length()
        self.cached = out.sequences[0, :length].cpu()
        new = out.sequences[0, ids.shape[1] :]
        return str(self.processor.tokenizer.decode(new, skip_special_tokens=True))

    def _cache_for(self, ids: torch.Tensor) -> Cache | None:
        """The cache, cropped to the prefix that it shares with the new prompt `ids` [T].

        They can differ: a chat template may render an answer differently from its generated tokens.
        """
        if self.cache is None:
            return None
        both = min(len(self.cached), len(ids) - 1)
        differs = (self.cached[:both] != ids[:both]).nonzero()
        common = int(differs[0]) if len(differs) else both
        if common < len(self.cached):
            self.cache.crop(common - len(self.cached))
        return self.cache if common else None


def chat(
    checkpoint: str,
    pictures: list[str],
    sounds: list[str],
    videos: list[str],
    max_new_tokens: int,
) -> None:
    """Reads turns from the terminal or standard input until `/quit` or end of file.

    Args:
        checkpoint: folder or Hub id of a Wings checkpoint or of a composite model of transformers.
        pictures: files of the first turn.
        sounds: likewise.
        videos: likewise.
        max_new_tokens: longest answer, in tokens.

    Raises:
        WingsError: an invalid picture, sound, video or checkpoint, or a sense that it lacks.
    """
    console = make_console()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    processor = load_processor(checkpoint)
    given = {"/image": pictures, "/audio": sounds, "/video": videos}
    items = [
        part for command, paths in given.items() for path in paths
        for part in FILES[command](processor, path)
    ]  # fmt: skip
    with console.status(Text(f"loading {checkpoint}")):
        session = load(checkpoint, processor)
    session.items = items
    console.print(HELP, style="dim")
    for line in lines(console):
        try:
            if not run_line(session, console, line.strip(), max_new_tokens):
                return
        except Exception as error:
            # One turn failed; the conversation goes on without it.
            console.print(ending_of(error)[1], style="red")


def load_processor(checkpoint: str) -> ProcessorMixin:
    """Loads the processor of a Wings checkpoint or of a composite model of transformers."""
    with reading(checkpoint, "Wings checkpoint"):
        kind = read_config_dict(checkpoint).get("model_type")
        if kind != "wings" and reads_images_and_text(str(kind)):
            return load_composite_processor(checkpoint)
        validate_is_wings(checkpoint, {})
    return WingsProcessor.from_pretrained(checkpoint)


def load(checkpoint: str, processor: ProcessorMixin | None = None) -> ChatSession:
    """Loads a checkpoint, on a GPU if there is one.

    Args:
        checkpoint: folder or Hub id.
        processor: the checkpoint's, if it is loaded already.
    """
    processor = processor or load_processor(checkpoint)
    session: ChatSession
    if isinstance(processor, WingsProcessor):
        session = CachedSession(WingsForCausalLM.from_pretrained(checkpoint), processor)
    else:
        session = ChatSession(load_composite(checkpoint), processor)
    # The decorator of transformers' own `to` hides from mypy that it is a method.
    session.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()  # type: ignore[arg-type]
    return session


def lines(console: Console) -> Iterator[str]:
    """Lines that the user types; lines of standard input are echoed."""
    if sys.stdin.isatty():
        while True:
            try:
                yield console.input(YOU)
            except EOFError:
                return
    for line in sys.stdin:
        console.print(YOU, line.rstrip(), sep="")
        yield line


def run_line(session: ChatSession, console: Console, line: str, max_new_tokens: int) -> bool:
    """Executes a command or sends a turn; False at `/quit`."""
    command, _, rest = line.partition(" ")
    if command == "/quit":
        return False
    if command == "/new":
        session.clear()
    elif command in FILES:
        session.items += FILES[command](session.processor, rest.strip())
    elif command.startswith("/"):
        raise WingsError(f"There is no command {command}: {HELP}.")
    elif line:
        console.print(WINGS, end="")
        streamer = TextStreamer(
            session.processor.tokenizer, skip_prompt=True, skip_special_tokens=True
        )
        session.say(line, max_new_tokens, streamer)
    return True
