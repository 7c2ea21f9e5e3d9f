"""Counts how often control moves from one file of `wings` to another during a pass."""

import sys
from pathlib import Path

import torch
from families import VISION, batch_of, text_config

import wings
from wings import WingsConfig, WingsForCausalLM

ROOM = str(Path(wings.__file__).parent)


class Moves:
    """Counts entries into, and returns to, another file of `wings` than the last one."""

    def __init__(self):
        self.count, self.at, self.visits = 0, None, {}

    def see(self, frame, event, arg):
        if event == "call":
            self.come_to(frame.f_code.co_filename)
        elif event == "return" and frame.f_back is not None:
            # A library's function in between does not count as a file.
            back = frame.f_back
            while back is not None and not back.f_code.co_filename.startswith(ROOM):
                back = back.f_back
            if back is not None:
                self.come_to(back.f_code.co_filename)

    def come_to(self, file):
        if file.startswith(ROOM) and file != self.at:
            self.at = file
            self.count += 1
            self.visits[file] = self.visits.get(file, 0) + 1


def model_of(blocks, **options):
    torch.manual_seed(0)
    config = WingsConfig(
        text_config=text_config("llama", num_hidden_layers=blocks), vision_config=VISION, rank=4,
        router_positions=512, **options,
    )  # fmt: skip
    return WingsForCausalLM(config)


def counted(run):
    """Moves while `run` is called, after a first call that imports and caches what it needs."""
    run()
    moves = Moves()
    sys.setprofile(moves.see)
    try:
        run()
    finally:
        sys.setprofile(None)
    return moves


def training_moves(blocks, **options):
    """Of a forward with labels of a model in training."""
    model = model_of(blocks, **options).train()
    batch, _ = batch_of(model, [["text", "image", "text", "text"], ["text"] * 5])
    return counted(lambda: model(**batch, labels=batch["input_ids"] % 96))


def decoding_moves(blocks, **options):
    """Of one decoded token a row after a prefill."""
    model = model_of(blocks, **options).eval()
    batch, _ = batch_of(model, [["text", "image", "text", "text"]] * 2)
    with torch.no_grad():
        cache = model(**batch, use_cache=True).cache
        ids = batch["input_ids"][:, :1] * 0 + 5
        return counted(lambda: model(input_ids=ids, cache=cache))


if __name__ == "__main__":
    for name, count in (("training forward", training_moves), ("decoding step", decoding_moves)):
        two, three = count(2), count(3)
        print(f"{name}: {two.count} moves with two blocks, {three.count - two.count} more a block")
        for file, visits in sorted(two.visits.items(), key=lambda item: -item[1]):
            print(f"  {visits:4d} {Path(file).relative_to(ROOM)}")
