"""Held-out documents, on which next-token distributions are compared."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from wings.errors import WingsError
from wings.processing.chat_template import ChatTemplate
from wings.processing.conversation import IMAGE_TOKEN, Conversation
from wings.processing.tokenization import IGNORED, Places, tokenize
from wings.records.formats import PLACEHOLDERS, Message, items_of, text_of, to_messages
from wings.records.open_records import open_records
from wings.records.record_source import RecordSource
from wings.records.records import naming_record
from wings.records.source_files import ENDINGS

NO_IMAGE = -1  # an id that no token has


@dataclass(frozen=True)
class Document:
    """A text or a conversation without pictures and sounds.

    Attributes:
        name: file and record.
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
            ids, labels = tokenize(tokenizer, text, spans, {IMAGE_TOKEN: Places(NO_IMAGE, ())})
        except WingsError as error:
            raise WingsError(f"{self.name}: {error}") from error
        return ids, [label != IGNORED for label in labels]


def read_documents(paths: Sequence[str | Path]) -> list[Document]:
    """Reads documents: one a record of files that training reads, else one a file.

    A record has `text`, or a conversation without pictures and sounds.

    Raises:
        WingsError: a missing file, no text, an invalid record (named).
    """
    documents = [document for path in paths for document in _of_path(Path(path))]
    if not documents:
        raise WingsError(f"{', '.join(map(str, paths))} holds no document; add text to it.")
    return documents


def _of_path(path: Path) -> Iterator[Document]:
    if path.is_file() and path.suffix.lower() not in ENDINGS:
        yield _of_text(path)
        return
    records = open_records(RecordSource(str(path)))
    for number in range(len(records)):
        name = records.place(number)
        with naming_record(records, number):
            record = records[number]
            if is_plain_text(record):
                yield Document(name, record["text"])
            else:
                messages = to_messages(record, records.folder)
                yield Document(name, messages=tuple(_turn(message) for message in messages))


def _of_text(path: Path) -> Document:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise WingsError(f"{path} is not UTF-8 text (byte {error.start}); convert it.") from error
    if not text.strip():
        raise WingsError(f"{path} is empty; add text to it.")
    return Document(str(path), text)


def is_plain_text(record: dict[str, Any]) -> bool:
    """True for a record with `text` that is no caption of an image or a sound."""
    text = record.get("text")
    has_source = any(record.get(kind) or record.get(f"{kind}s") for kind in PLACEHOLDERS)
    return isinstance(text, str) and bool(text.strip()) and not has_source


def _turn(message: Message) -> dict[str, Any]:
    for kind, _ in items_of([message]):
        noun = "an image" if kind == "image" else "a sound"
        raise WingsError(f"it has {noun}, which held-out text cannot have; remove the record")
    return message | {"content": text_of(message["content"])}
