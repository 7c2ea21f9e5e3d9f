"""`wings demo`: serves a page with a chat for a checkpoint."""

import os
from collections.abc import Sequence
from pathlib import Path

# Gradio reads these when it is imported; the page must not need another host.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr

from wings.processing.image_limits import ImageLimits
from wings.serving.server import bind, load, stop_signals, url_of

from .demo_files import Example
from .demo_page import build_page

FONTS = ["system-ui", "sans-serif"]
MONO = ["ui-monospace", "monospace"]
NOT_SHARED = "Gradio's servers gave no public address, so the page is on this machine alone."


def demo(
    checkpoint: str,
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str = "auto",
    dtype: str = "auto",
    max_new_tokens: int = 256,
    share: bool = False,
    examples: Sequence[Example] | None = None,
) -> None:
    """Serves the page until Ctrl+C or SIGTERM.

    Args:
        checkpoint: folder or Hub id of a Wings checkpoint.
        host: address of this machine to listen at; "0.0.0.0" for all.
        port: 0 for any free one.
        device: as torch names it, or "auto".
        dtype: of the weights: a name of torch's, or "auto" for the checkpoint's.
        max_new_tokens: longest answer, in tokens.
        share: also open a public address, through Gradio's servers.
        examples: questions and their files, see `build_page`.

    Raises:
        WingsError: the port is taken, or no Wings checkpoint.
    """
    with bind(host, port) as bound:
        url, port = url_of(bound), bound.getsockname()[1]
        model, processor = load(checkpoint, device, dtype)
        title = Path(checkpoint).resolve().name if Path(checkpoint).is_dir() else checkpoint
        page = build_page(model, processor, title, max_new_tokens, examples)
    with stop_signals() as stopped:
        public = launch(page, host, port, share)
        print(f"The demo of {title} is at {url}; stop it with Ctrl+C.", flush=True)
        if share:
            found = f"Anyone can reach it at {public}." if public else NOT_SHARED
            print(found, flush=True)
        stopped.wait()
    page.close(verbose=False)


def launch(page: gr.Blocks, host: str, port: int, share: bool) -> str | None:
    """Serves a page from threads of its own; returns its public address, if it is to have one."""
    *_, public = page.queue().launch(
        server_name=host,
        server_port=port,
        share=share,
        prevent_thread_lock=True,
        quiet=True,
        # Pages made by a Node.js server look the same and start later.
        ssr_mode=False,
        max_file_size=ImageLimits().image_bytes,
        # Fonts of the visitor's machine, as those of a font server would be fetched.
        theme=gr.themes.Default(font=FONTS, font_mono=MONO),
        footer_links=["api", "gradio"],
    )
    return public
