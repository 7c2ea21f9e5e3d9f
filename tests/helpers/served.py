"""A tiny checkpoint with answers of its own, and programs that serve it."""

import base64
import io
import re
import signal
import socket
import threading
import zlib
from pathlib import Path

import forked
import torch
from PIL import Image
from tiny import TEXT, tiny_model, tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from wings import WingsForCausalLM, WingsProcessor

ROOT = Path(__file__).parents[2]
READY = re.compile(r"http://\S+:\d+")


def save_noisy(folder, **options):
    """Saves a tiny model whose learners have an effect, with its processor; returns both."""
    model, processor = tiny_model(
        **{"learners": ("image", "text"), "router": "attended", **options}
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model.eval(), processor


def model_with(**parts):
    """A model of these encoders whose learners act, and its processor."""
    torch.manual_seed(0)
    senses = {"audio": {"rank": 4}} if "audio" in parts else None
    options = {"rank": 4, "text_guard": True} if "image" in parts else {}
    text = LlamaForCausalLM(LlamaConfig(**TEXT))
    model = WingsForCausalLM.from_pretrained_parts(text=text, senses=senses, **parts, **options)
    processor = WingsProcessor.from_pretrained_parts(text=tiny_tokenizer(), **parts)
    for name, sense in processor.senses.items():
        model.config.change_sense(name, token_id=sense.token_id)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval(), processor


def answer(model, processor, messages, max_new_tokens):
    """The greedy answer as `model.generate` gives it."""
    batch = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ids = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
    return processor.decode(ids[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)


def png(colour, size=(40, 30)):
    """The bytes of an image of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "png")
    return stream.getvalue()


def huge_png():
    """A small file that says it holds 2,500,000,000 pixels."""
    data = bytearray(png("white"))
    # Width and height in the first chunk, and the checksum of its type and content.
    data[16:24] = (50_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def data_uri(data):
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


class Program:
    """`wings COMMAND` in a process of its own, until the sentence with its address."""

    def __init__(self, *arguments):
        words = ["-m", "wings.cli", *arguments, "--port", "0", "--device", "cpu"]
        self.process = forked.Program(*words, cwd=ROOT, HF_HUB_OFFLINE="1")
        self.errors = ""
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        self.line = self.process.stdout.readline()
        if found := READY.search(self.line):
            self.url = found[0].removesuffix(";").removesuffix("/v1")
        else:
            self.end(signal.SIGKILL)
            raise AssertionError(self.errors)

    def _read(self):
        for line in self.process.stderr:
            self.errors += line

    def end(self, number):
        """Sends a signal and returns the exit code; `errors` is whole then."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.reader.join()
        self.process.stdout.close()
        return code
