"""Messages of requests: what a model cannot take is refused, and no file is opened for a client."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from wings.errors import WingsError
from wings.processing.web_file import is_address

# Parts of a message, as the APIs of OpenAI and the server of transformers name them.
TEXTS = ("text", "input_text", "output_text")
KINDS = {
    "image_url": "image", "input_image": "image", "audio_url": "audio", "input_audio": "audio",
    "video_url": "video",
}  # fmt: skip
_NOUNS = {"image": "an image", "audio": "a sound", "video": "a video"}
_EXAMPLES = {"image": "image/png", "audio": "audio/wav", "video": "video/mp4"}


def checked_messages(messages: Sequence[Any], senses: Collection[str]) -> list[Any]:
    """Returns the messages of a request with every source as an address.

    Args:
        messages: as a client sent them.
        senses: of the model.

    Returns:
        the messages; parts are texts, `image_url`, `audio_url` and `video_url`.

    Raises:
        WingsError: no list of messages, a part of another kind or of a sense that the model lacks,
            or a source that is neither a data URI nor a URL.
    """
    if not isinstance(messages, list):
        raise WingsError("'messages' is no list: send a list of {'role', 'content'}.")
    checked = []
    for number, message in enumerate(messages):
        where = f"Message {number}"
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise WingsError(f"{where} has no role: send {{'role', 'content'}}.")
        content = message.get("content")
        if isinstance(content, list):
            message = {**message, "content": [_checked(part, where, senses) for part in content]}
        elif content is not None and not isinstance(content, str):
            raise WingsError(f"{where} has no content: send a text or a list of parts.")
        checked.append(message)
    return checked


def _checked(part: Any, where: str, senses: Collection[str]) -> Mapping:
    name = part.get("type") if isinstance(part, Mapping) else None
    if name in TEXTS and isinstance(part.get("text"), str):
        return part
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None or name is None:
        raise WingsError(
            f"{where} has the part {str(part)[:80]}: send parts of the types text, with 'text', "
            f"and image_url, with 'image_url': {{'url': ...}}; input_audio and video_url likewise."
        )
    noun = _NOUNS[kind]
    if (kind if kind == "audio" else "image") not in senses:
        verb = "hear" if kind == "audio" else "see"
        raise WingsError(f"{where} has {noun}, and this model does not {verb}: leave it out.")
    address = _address(part, name, kind)
    # A path would be read on this machine, for whoever asks.
    if not isinstance(address, str) or not is_address(address):
        raise WingsError(
            f"{where} has {noun} at {str(address)[:80]!r}: send a URL or a data URI "
            f"(data:{_EXAMPLES[kind]};base64,...), as this server opens no files."
        )
    return {"type": f"{kind}_url", f"{kind}_url": {"url": address}}


def _address(part: Mapping, name: str, kind: str) -> Any:
    """The address of a source, or the data URI of its bytes in base64."""
    given = part.get(name, part.get(f"{kind}_url"))
    if isinstance(given, Mapping) and given.get("data") is not None:
        return f"data:{kind}/{given.get('format') or kind};base64,{given['data']}"
    return given.get("url") if isinstance(given, Mapping) else given
