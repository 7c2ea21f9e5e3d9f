"""Held-out documents, on which next-token distributions are compared."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from wings.errors import WingsError
from wings.processing.chat_template import ChatTemplate
from wings.processing.conversation import Conversation
from wings.processing.tokenization import IGNORED, tokenize

NO_IMAGE = -1  # an id that no token has


@dataclass(frozen=True)
class Document:
    """A text or a conversation without pictures.

    Attributes:
        name: file and line.
        text: of a plain text; None for a conversation.
        messages: of a conversation with all its answers; rendered with the chat template.
    """

    name: str
    text: str | None = None
    messages: tuple[dict, ...] = ()

    def tokens(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[bool]]:
        """Token ids, and True for each that is to be predicted.

        In a text all are predicted, in a conversation those of the assistant: models are not
        trained to predict what users ask.

        Raises:
            WingsError: a conversation that the chat template cannot render.
        """
        if self.text is not None:
            ids = tokenizer(self.text, verbose=False).input_ids
            return ids, [True] * len(ids)
        template = ChatTemplate(tokenizer, {})
        conversation = Conversation.parse(self.messages)
        try:
            text = template.render(conversation.messages, add_generation_prompt=False)
            template.validate(conversation, False, text)
            spans = template.spans(conversation, text)
            ids, labels = tokenize(tokenizer, text, spans, NO_IMAGE, 0)
        except WingsError as error:
            raise WingsError(f"{self.name}: {error}") from error
        return ids, [label != IGNORED for label in labels]


def read_documents(paths: Sequence[str | Path]) -> list[Document]:
    """Reads documents from files: one a line of JSON Lines (`.jsonl`), else one a file.

    A line has `text`, or `messages` with answers in the format of training.

    Raises:
        WingsError: a missing file, no text, an invalid line (named).
    """
    documents = [document for path in paths for document in _of_file(Path(path))]
    if not documents:
        raise WingsError(f"{', '.join(map(str, paths))} holds no document; add text to it.")
    return documents


def _of_file(path: Path) -> list[Document]:
    if not path.is_file():
        raise WingsError(
            f"There is no file {path}; pass a text file, or JSON Lines with a text each."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise WingsError(f"{path} is not UTF-8 text (byte {error.start}); convert it.") from error
    if path.suffix == ".jsonl":
        # Not splitlines, which also splits at separators that occur inside texts.
        lines = enumerate(text.split("\n"), 1)
        return [_of_line(line, f"{path}:{n}") for n, line in lines if line.strip()]
    if not text.strip():
        raise WingsError(f"{path} is empty; add text to it.")
    return [Document(str(path), text)]


def _of_line(line: str, where: str) -> Document:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise WingsError(f"{where} is not JSON ({error.msg}); write one record a line.") from error
    text = record.get("text") if isinstance(record, dict) else None
    if isinstance(text, str) and text.strip():
        return Document(where, text)
    messages = record.get("messages") if isinstance(record, dict) else None
    if not isinstance(messages, list) or not messages:
        named = ", ".join(map(repr, record)) if isinstance(record, dict) else "no names at all"
        raise WingsError(
            f"{where} has neither 'text' nor 'messages', but {named}; rename the field."
        )
    turns = tuple(_turn(message, where) for message in messages)
    return Document(where, messages=turns)


def _turn(message: dict, where: str) -> dict:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str) or "role" not in message:
        raise WingsError(
            f"{where} has a message without role and text; remove it (held-out conversations "
            "cannot have pictures)."
        )
    return {"role": message["role"], "content": content}
