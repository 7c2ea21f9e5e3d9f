"""The request handlers of `transformers serve`: chats and responses, at once or streamed."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import WingsError
from .contract import Contract

try:
    # Without these the modules of transformers can be imported, and lack names that they use.
    import fastapi
    import openai  # noqa: F401
    import uvicorn  # noqa: F401
    from transformers.cli.serving.chat_completion import ChatCompletionHandler
    from transformers.cli.serving.response import ResponseHandler
    from transformers.cli.serving.utils import GenerationState, Modality
except ImportError as error:
    raise WingsError(
        "fastapi, openai and uvicorn are not all installed: run pip install 'wings-lorra[serve]'."
    ) from error

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


class OneModel:
    """A model manager of transformers' handlers with one model, which is loaded already.

    Attributes:
        force_model: its name; the handlers refuse requests for another one.
    """

    def __init__(self, name: str, model: Any, processor: Any) -> None:
        self.force_model = name
        self.model = model
        self.processor = processor

    @staticmethod
    def process_model_name(model_id: str) -> str:
        """The name as it is, to which transformers' own manager adds a revision."""
        return model_id

    def load_model_and_processor(self, name: str, **_: Any) -> tuple[Any, Any]:
        """Returns what is loaded."""
        return self.model, self.processor

    @staticmethod
    def get_model_modality(model: Any, processor: Any = None) -> Modality:
        """Text and images; sounds are converted all the same, see `chat_handlers`."""
        return Modality.VLM


def chat_handlers(
    name: str,
    model: Any,
    processor: Any,
    check: Callable[[Sequence], list],
    finish: Callable[[list], list],
) -> dict[str, ChatCompletionHandler | ResponseHandler]:
    """The handlers for a model, by the path that OpenAI's clients call.

    Each has a coroutine `handle_request(body, request_id)`, which returns a Starlette response.
    Generations run one after the other, in one thread.

    Args:
        name: of the model in requests and answers.
        model: with `generate`.
        processor: with `apply_chat_template` and `tokenizer`.
        check: called with the messages of each request, to refuse some by raising an error;
            returns what is used.
        finish: likewise, called with the messages as the processor is to get them.
    """
    manager: Any = OneModel(name, model, processor)
    state = GenerationState()
    handlers: dict[str, ChatCompletionHandler | ResponseHandler] = {
        CHAT: ChatCompletionHandler(model_manager=manager, generation_state=state),
        RESPONSES: ResponseHandler(model_manager=manager, generation_state=state),
    }
    convert = ChatCompletionHandler.get_processor_inputs_from_messages

    def checked(messages: list[dict], modality: Modality) -> list[dict]:
        # With this modality the handlers themselves would ask for the sound of videos.
        return finish(convert(check(messages), Modality.MULTIMODAL))

    for handler in handlers.values():
        # Both call this static method of their base class on themselves.
        setattr(handler, convert.__name__, checked)
    return handlers


def _check_handlers() -> None:
    class Reached(Exception):
        pass

    class Processor:
        def apply_chat_template(self, messages: list, **options: Any) -> None:
            assert options["add_generation_prompt"], "a chat does not ask for an answer"
            assert options["tokenize"] and options["return_dict"], "a chat gets no tensors"
            raise Reached(messages)

    address = "data:image/png;base64,"
    items: list[dict] = [
        {"type": f"{kind}_url", f"{kind}_url": {"url": address}} for kind in ("audio", "video")
    ]
    image = {"type": "image_url", "image_url": {"url": address}}
    parts = [image, *items, {"type": "text", "text": "a"}]
    image = {"type": "input_image", "image_url": address}
    responses = [image, *items, {"type": "input_text", "text": "a"}]
    bodies: dict[str, dict[str, Any]] = {
        CHAT: {"messages": [{"role": "user", "content": parts}]},
        RESPONSES: {"input": [{"role": "user", "content": responses}]},
    }
    kinds = ("image", "audio", "video")
    expected = [*({"type": kind, "url": address} for kind in kinds), {"type": "text", "text": "a"}]
    checked: list[Sequence] = []

    def check(messages: Sequence) -> list:
        checked.append(messages)
        return [*messages]

    handlers = chat_handlers("one", object(), Processor(), check, lambda messages: messages)
    for path, handler in handlers.items():
        try:
            asyncio.run(handler.handle_request({**bodies[path], "model": "one"}, "id"))
        except Reached as reached:
            (message,) = reached.args[0]
            assert message["content"] == expected, "items do not arrive as their addresses"
        assert checked, "messages are not checked before they are used"
        checked.clear()
        try:
            asyncio.run(handler.handle_request({**bodies[path], "model": "another"}, "id"))
        except fastapi.HTTPException as error:
            assert error.status_code == 400, "a request for another model has another status"
        assert not checked, "a request for another model is answered"


CONTRACTS = (
    Contract(
        "transformers",
        "5.17",
        "the handlers of transformers serve ask their model manager for force_model, "
        "process_model_name, load_model_and_processor and get_model_modality, and turn messages "
        "into a processor's in get_processor_inputs_from_messages",
        (
            "transformers.cli.serving.chat_completion:ChatCompletionHandler"
            "(model_manager, generation_state)",
            "transformers.cli.serving.chat_completion:ChatCompletionHandler.handle_request"
            "(body, request_id)",
            "transformers.cli.serving.response:ResponseHandler(model_manager, generation_state)",
            "transformers.cli.serving.response:ResponseHandler.handle_request(body, request_id)",
            "transformers.cli.serving.utils:GenerationState",
            "transformers.cli.serving.utils:Modality.VLM",
            "transformers.cli.serving.utils:Modality.MULTIMODAL",
        ),
        check=_check_handlers,
    ),
)
