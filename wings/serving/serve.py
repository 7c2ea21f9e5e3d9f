"""`wings serve`: answers requests of OpenAI's clients with a checkpoint."""

import json
import threading
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from transformers import StoppingCriteriaList

from wings.endings import ending_of
from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.sense import IMAGE
from wings.upstream.serving import CHAT, RESPONSES, chat_handlers

from .request_messages import checked_messages
from .server import StopOnEvent, bind, load, stop_signals, url_of

# Seconds that answers have to end once the server is to stop.
PATIENCE = 10


def serve(
    checkpoint: str,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Serves a checkpoint until Ctrl+C or SIGTERM.

    Args:
        checkpoint: folder or Hub id of a Wings checkpoint.
        name: of the model for clients; default: the folder's name, or the Hub id.
        host: address of this machine to listen at; "0.0.0.0" for all.
        port: 0 for any free one.
        device: as torch names it, or "auto".
        dtype: of the weights: a name of torch's, or "auto" for the checkpoint's.

    Raises:
        WingsError: the port is taken, no Wings checkpoint, or a device that cannot be used.
    """
    with bind(host, port) as bound:
        model, processor = load(checkpoint, device, dtype)
        if name is None:
            name = Path(checkpoint).resolve().name if Path(checkpoint).is_dir() else checkpoint
        url = url_of(bound)
        with stop_signals() as stopped:
            app = build_app(name, StoppableModel(model, stopped), processor)
            config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=PATIENCE)
            server = uvicorn.Server(config)
            # In a thread of its own uvicorn leaves the signals to this one.
            thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
            thread.start()
            print(f"'{name}' is served at {url}/v1; stop it with Ctrl+C. An example:")
            print(example(url, processor.senses), flush=True)
            while thread.is_alive() and not stopped.wait(1):
                pass
            server.should_exit = True
            thread.join()


class StoppableModel:
    """A model whose generations end at their next token once an event is set."""

    def __init__(self, model: WingsForCausalLM, stopped: threading.Event) -> None:
        self.model = model
        self.criteria = StoppingCriteriaList([StopOnEvent(stopped)])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def generate(self, **options: Any) -> Any:
        """The model's own."""
        return self.model.generate(**options, stopping_criteria=self.criteria)


def example(url: str, senses: Collection[str]) -> str:
    """A command that sends a request with an image, or with a sound to a model that only hears."""
    kind, file = ("image", "cat.jpg") if IMAGE in senses else ("audio", "clip.wav")
    part = {"type": f"{kind}_url", f"{kind}_url": {"url": f"https://example.org/{file}"}}
    content = [part, {"type": "text", "text": f"Describe this {kind}."}]
    body = json.dumps({"messages": [{"role": "user", "content": content}]})
    return f"curl {url}{CHAT} -H 'Content-Type: application/json' \\\n  -d '{body}'"


def build_app(name: str, model: Any, processor: WingsProcessor) -> FastAPI:
    """The web application: transformers' handlers for one model, and errors as sentences.

    Args:
        name: of the model in requests, which may leave it out, and in answers.
        model: with `generate`, in evaluation mode, on its device.
        processor: of the model.
    """
    app = FastAPI(title="wings serve", docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(WingsError)
    async def refuse(request: Request, error: WingsError) -> JSONResponse:
        return error_response(400, str(error))

    @app.exception_handler(HTTPException)
    async def tell(request: Request, error: HTTPException) -> JSONResponse:
        return error_response(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def unread(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(400, "The request is no JSON object: send one, as application/json.")

    @app.exception_handler(ValueError)
    async def misfit(request: Request, error: ValueError) -> JSONResponse:
        # An option of a request that transformers cannot read or use.
        reason = " ".join(str(error).split()).rstrip(".")[:400]
        return error_response(400, f"The request cannot be answered ({reason}).")

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> JSONResponse:
        # uvicorn logs the traceback as well.
        return error_response(500, ending_of(error)[1])

    handlers = chat_handlers(
        name, model, processor,
        lambda messages: checked_messages(messages, processor.senses),
        # Here, as the handlers would ask for another number of frames.
        lambda messages: processor.video_input.in_messages([messages])[0],
    )  # fmt: skip

    @app.post(CHAT)
    async def chat(body: dict) -> Any:
        return await handlers[CHAT].handle_request(with_field(body, "messages"), uuid.uuid4().hex)

    @app.post(RESPONSES)
    async def respond(body: dict) -> Any:
        # transformers streams unless told otherwise; OpenAI's API is the other way round.
        body = {"stream": False, **with_field(body, "input")}
        return await handlers[RESPONSES].handle_request(body, uuid.uuid4().hex)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        one = {"id": name, "object": "model", "created": 0, "owned_by": "wings"}
        return {"object": "list", "data": [one]}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def error_response(status: int, sentence: str) -> JSONResponse:
    """An error in the form that OpenAI's clients read."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": sentence, "type": kind, "param": None, "code": None}
    return JSONResponse({"error": error}, status_code=status)


def with_field(body: dict, field: str) -> dict:
    """The body of a request; raises a `WingsError` if it lacks its conversation."""
    if not body.get(field):
        raise WingsError(f"The request has no '{field}': send a conversation.")
    return body
