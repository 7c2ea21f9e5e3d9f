"""Pieces of the commands that serve a checkpoint: its address, the model, and signals to stop."""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria
from transformers.utils import logging

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor

STOPS = (signal.SIGINT, signal.SIGTERM)


def bind(host: str, port: int) -> socket.socket:
    """A TCP socket at the address; before a model is loaded, it shows that the address is free.

    Raises:
        WingsError: the port is taken or not allowed, or this machine has no such address.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise WingsError(
            f"'{host}' is no address of this machine: choose another --host."
        ) from error
    try:
        # A port of a server that has just ended may be taken again at once.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        # Two sockets that do not listen could share the port.
        opened.listen()
    except OSError as error:
        opened.close()
        raise WingsError(
            f"Port {port} of {host} cannot be used ({error.strerror}): choose another --port, or "
            f"another --host."
        ) from error
    return opened


def url_of(bound: socket.socket) -> str:
    """`http://HOST:PORT` of a bound socket, as this machine's programs reach it."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def load(checkpoint: str, device: str, dtype: str) -> tuple[WingsForCausalLM, WingsProcessor]:
    """Loads a checkpoint and its processor for evaluation.

    Args:
        checkpoint: folder or Hub id.
        device: as torch names it, or `"auto"`: a GPU if there is one.
        dtype: a name of torch's, or `"auto"`: the checkpoint's.

    Raises:
        WingsError: no Wings checkpoint, or a device that cannot be used.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    # torch raises an AssertionError where it was built without the device.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        raise WingsError(
            f"The device '{device}' cannot be used ({reason[:200]}): choose another --device."
        ) from error
    logging.disable_progress_bar()
    model = WingsForCausalLM.from_pretrained(checkpoint, dtype=dtype)
    return model.to(device).eval(), WingsProcessor.from_pretrained(checkpoint)


class StopOnEvent(StoppingCriteria):
    """Ends a generation at its next token once an event is set."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        """Ids `[B, T]` -> `[B]` bool, the rows that end."""
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Within it, Ctrl+C and SIGTERM set the event; they end nothing by themselves."""
    stopped = threading.Event()
    before = {one: signal.signal(one, lambda *_: stopped.set()) for one in STOPS}
    try:
        yield stopped
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
