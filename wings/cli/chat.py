"""`wings chat`: talks to a saved checkpoint in the terminal, turn by turn, from its cache."""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from rich.console import Console
from transformers import Cache, TextStreamer
from transformers.utils import logging

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.image_processor import load_image
from wings.processing.processor import WingsProcessor
from wings.upstream.cache_name import NAME, cache_of

HELP = "/image FILE adds a picture to the next turn, /new begins anew, /quit ends"


class ChatSession:
    """A conversation with a model; what was said before is not computed again.

    Attributes:
        messages: the chat so far.
        pictures: files that go with the user's next turn.
    """

    def __init__(self, model: WingsForCausalLM, processor: WingsProcessor) -> None:
        self.model = model
        self.processor = processor
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self.messages: list[dict] = []
        self.pictures: list[str] = []
        self.cache: Cache | None = None
        self.cached = torch.empty(0, dtype=torch.long)  # the token ids that the cache holds

    def add_picture(self, path: str) -> None:
        """Adds a picture to the next turn.

        Raises:
            WingsError: no such file, or no picture in it.
        """
        load_image(path)
        self.pictures.append(path)

    def say(self, text: str, max_new_tokens: int, streamer: TextStreamer | None = None) -> str:
        """The model's answer, greedy; both turns join the session."""
        parts = [{"type": "image", "image": path} for path in self.pictures]
        turn = {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
        messages = [*self.messages, turn]
        batch = self.processor.apply_chat_template(messages).to(self.model.device)
        ids = batch["input_ids"]
        inputs: dict[str, Any] = {**batch, NAME: self._cache_for(ids[0].cpu())}
        out = self.model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            return_dict_in_generate=True,
            streamer=streamer,
        )
        said = out.sequences[0, ids.shape[1] :]
        answer = self.processor.tokenizer.decode(said, skip_special_tokens=True).strip()
        self.cache = cache_of(out)
        held = 0 if self.cache is None else self.cache.get_seq_length()
        self.cached = out.sequences[0, :held].cpu()
        self.messages = [*messages, {"role": "assistant", "content": answer}]
        self.pictures = []
        return answer

    def _cache_for(self, ids: torch.Tensor) -> Cache | None:
        """The cache of what the new prompt `ids` [T] has in common with the conversation so far.

        A template may write an answer differently from how it was said; the rest is then cropped.
        """
        if self.cache is None:
            return None
        both = min(len(self.cached), len(ids) - 1)
        differs = (self.cached[:both] != ids[:both]).nonzero()
        common = int(differs[0]) if len(differs) else both
        if common < len(self.cached):
            self.cache.crop(common - len(self.cached))
        return self.cache if common else None


def chat(checkpoint: str, pictures: list[str], max_new_tokens: int) -> None:
    """Reads turns from the terminal, or line by line from standard input, until `/quit` or the end.

    Args:
        checkpoint: folder or Hub name of a Wings checkpoint.
        pictures: files that go with the first turn.
        max_new_tokens: where an answer is cut.

    Raises:
        WingsError: a picture that cannot be read, or no checkpoint.
    """
    for path in pictures:
        load_image(path)
    console = Console(highlight=False)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with console.status(f"loading {checkpoint}"):
        session = load(checkpoint)
    session.pictures = list(pictures)
    console.print(f"[dim]{HELP}[/]")
    for line in lines(console):
        try:
            if not answer(session, console, line.strip(), max_new_tokens):
                return
        except WingsError as error:
            console.print(f"[red]{error}[/]")


def load(checkpoint: str) -> ChatSession:
    """The checkpoint's model and processor, on a GPU where there is one."""
    model = WingsForCausalLM.from_pretrained(checkpoint)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return ChatSession(model, WingsProcessor.from_pretrained(checkpoint))


def lines(console: Console) -> Iterator[str]:
    """What the user types, or the lines of standard input, shown as if they had been typed."""
    if sys.stdin.isatty():
        while True:
            try:
                yield console.input("[bold]you[/]    ")
            except EOFError:
                return
    for line in sys.stdin:
        console.print(f"[bold]you[/]    {line.rstrip()}")
        yield line


def answer(session: ChatSession, console: Console, line: str, max_new_tokens: int) -> bool:
    """Does what a line says; whether to go on."""
    command, _, rest = line.partition(" ")
    if command == "/quit":
        return False
    if command == "/new":
        session.clear()
    elif command == "/image":
        session.add_picture(rest.strip())
    elif command.startswith("/"):
        raise WingsError(f"there is no {command}: {HELP}")
    elif line:
        console.print("[bold]wings[/]  ", end="")
        streamer = TextStreamer(
            session.processor.tokenizer, skip_prompt=True, skip_special_tokens=True
        )
        session.say(line, max_new_tokens, streamer)
    return True
