"""Models that wings are compared with: the same decoder, the same tokens."""

import torch

from wings.kernels.bench.alternatives import build_alternatives
from wings.kernels.bench.inputs import tokens
from wings.kernels.bench.run import CHEAP, CROSS, LLAVA
from wings.kernels.bench.setting import QUICK


def test_alternatives_are_as_large_as_the_decoder_and_read_the_same_rows():
    (shape,), layers = QUICK.shapes, 4
    others = build_alternatives(shape, layers, 64, "torch")
    row = tokens(shape, 2, 48, torch.device("cpu"))
    decoder = others[LLAVA].model.model.language_model
    assert len(decoder.layers) == layers
    llava = others[LLAVA].inputs(row)
    is_image = row["input_ids"] == shape.vocabulary
    image = others[LLAVA].model.config.image_token_id
    assert torch.equal(llava["input_ids"] == image, is_image)
    cross = others[CROSS]
    assert len(cross.model.model.layers) == layers + 1
    inputs = cross.inputs(row)
    assert inputs["input_ids"].shape[1] == 48 - shape.image_tokens
    assert inputs["cross_attention_states"].shape == (2, shape.image_tokens, shape.width)
    for other in others.values():
        other.train()
        other.model(**other.inputs(row), use_cache=False).loss.backward()
    cheap = others[CHEAP].model
    learned = {name.split(".")[3] for name, _ in cheap.named_parameters() if ".wings." in name}
    assert learned == {"0", "3"}
    assert cheap.config.router == "attended" and cheap.config.learners == ("image",)
    # Its gates start at zero, so that they alone have a gradient in the first step.
    assert cross.model.model.layers[4].cross_attn_attn_gate.grad.any()
    trained = [n for n, p in others[LLAVA].model.named_parameters() if p.requires_grad]
    assert trained and not any("vision_tower" in name for name in trained)
