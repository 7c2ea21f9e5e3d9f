"""Errors of the Hub and of the network, each as one sentence."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_token
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from wings.errors import HubError, WingsError

AGAIN = "run the same command again, which sends only what is missing"
NO_TOKEN = (
    "No token for the Hub was found: run hf auth login, or set HF_TOKEN to a token that may write."
)
# Clients under which huggingface_hub has run.
CLIENTS = ("httpx", "httpcore", "requests", "urllib3")


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """One boundary for everything that is asked of the Hub.

    Args:
        name: of the repository, for messages.

    Raises:
        HubError: what the Hub or the network refused, as a sentence.
    """
    try:
        yield
    except WingsError:
        raise
    except (HfHubHTTPError, OSError, RuntimeError, ValueError) as error:
        sentence = sentence_of(error, name)
        if sentence is None:
            raise
        raise HubError(sentence) from error
    except Exception as error:
        if not is_of_network(error):
            raise
        raise HubError(unreached(error)) from error


def validate_token() -> None:
    """Raises a `HubError` without a token, or where the network is switched off; asks nobody."""
    if constants.HF_HUB_OFFLINE:
        raise HubError("HF_HUB_OFFLINE is set, so the Hub is not asked: unset it to push.")
    if not get_token():
        raise HubError(NO_TOKEN)


def sentence_of(error: BaseException, name: str) -> str | None:
    """The sentence of an error that came from the Hub or from the network; None for another."""
    for one in causes(error):
        if isinstance(one, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set, so the Hub is not asked: unset it to push."
        if isinstance(one, LocalTokenNotFoundError):
            return NO_TOKEN
        if isinstance(one, HfHubHTTPError):
            return refused(one, name)
        if is_of_network(one):
            return unreached(one)
    if isinstance(error, ValueError) and "LFS batch API" in str(error):
        reason = str(error).rpartition(": `")[2]
        return f"The Hub takes no content for {name} ({cleaned(reason)}): free some space there."
    return None


def refused(error: HfHubHTTPError, name: str) -> str:
    """The sentence of an answer of the Hub that is an error."""
    response = error.response
    status = 0 if response is None else response.status_code
    given = "" if response is None else response.headers.get("X-Error-Message") or ""
    said = f" ({cleaned(given or error.server_message or str(status))})"
    owner = name.partition("/")[0]
    if status == 401 or "Invalid user token" in str(error):
        source = "HF_TOKEN" if os.environ.get("HF_TOKEN") else "the stored token"
        return (
            f"The Hub does not accept {source}{said}: set HF_TOKEN to a valid token, or run"
            f" hf auth login."
        )
    if status == 403:
        return (
            f"The token may not write to {name}{said}: use a token with the permission to write,"
            f" and an owner that you may write for instead of '{owner}'."
        )
    if status == 404:
        return (
            f"The Hub has no {name} that this token can see{said}: check the name, the owner and"
            f" the revision."
        )
    if status in (409, 412):
        return f"{name} changed on the Hub during the upload{said}: {AGAIN}."
    if status in (413, 507):
        return f"The Hub takes no content for {name}{said}: free some space there."
    if status == 429 or status >= 500:
        return f"The Hub has no time for {name} now{said}: wait, and {AGAIN}."
    return f"The Hub refused {name}{said}: change what it names."


def unreached(error: BaseException) -> str:
    """The sentence of a connection that failed."""
    reason = cleaned(str(error)) or type(error).__name__
    return (
        f"The Hub at {constants.ENDPOINT} cannot be reached, or the connection broke ({reason}):"
        f" check the network, and {AGAIN}."
    )


def is_of_network(error: BaseException) -> bool:
    """True for an error of a connection."""
    module = type(error).__module__.partition(".")[0]
    return module.startswith(CLIENTS) or isinstance(error, ConnectionError | TimeoutError)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, its cause, and so on."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__


def cleaned(text: str) -> str:
    """One line that fits into a sentence, of at most 200 letters."""
    line = " ".join(text.split()).strip("` ").rstrip(".")[:200]
    return re.sub(r"[.!] +(?=[A-Z])", "; ", line)
