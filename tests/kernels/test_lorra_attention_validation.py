"""Arguments that LoRRA attention refuses before a launch."""

import pytest
import torch
from lorra_case import NAMES, Case, on_device

from wings.kernels.key_ranges import KeyRanges
from wings.kernels.lorra_attention import forward as forward_file
from wings.kernels.lorra_attention.forward import lorra_attention


def test_what_does_not_fit_is_refused_with_names_and_sizes(monkeypatch):
    def launch(*_):
        raise AssertionError("launched")

    monkeypatch.setattr(forward_file, "operator", launch)
    key_ranges = on_device(KeyRanges.causal(5, 7))
    good = dict(
        zip(NAMES, (x.float() for x in Case(torch.float32, key_ranges).tensors), strict=True)
    )
    turns = Case(torch.float32, key_ranges)
    good |= {"heads": 2, "rope_q": turns.rope_q, "rope_k": turns.rope_k, "key_ranges": key_ranges}
    with pytest.raises(AssertionError, match="launched"):
        lorra_attention(**good)
    zeros = torch.zeros
    bad = [
        ({"x": zeros(2, 5)}, "x has 2 dimensions"),
        ({"heads": 3}, "3 heads do not divide x's width 32"),
        ({"heads": 4}, "heads are 8 wide"),
        ({"t": zeros(2, 5, 200)}, "t has rank 200"),
        ({"t": zeros(2, 6, 16)}, r"t is \[2, 6, 16\].*\[2, 5, 16\]"),
        ({"source": zeros(2, 7, 30)}, r"source is \[2, 7, 30\].*\[2, 7, 32\]"),
        ({"c_k": zeros(2, 8, 16)}, r"c_k is \[2, 8, 16\].*\[2, 7, 16\]"),
        ({"c_v": zeros(2, 7, 15)}, r"c_v is \[2, 7, 15\].*\[2, 7, 16\]"),
        ({"b_k": zeros(32, 16)}, r"b_k is \[32, 16\].*\[16, 32\]"),
        ({"a_o": zeros(16, 32)}, r"a_o is \[16, 32\].*\[32, 16\]"),
        ({"rope_q": turns.rope_k}, r"cos_q is \[2, 7, 8\].*\[2, 5, 8\]"),
        ({"rope_k": (turns.rope_k[0], zeros(3, 7, 8))}, r"sin_k is \[3, 7, 8\]"),
        ({"b_v": good["b_v"].half()}, "b_v is torch.float16 and x is torch.float32"),
        ({"rope_q": [table.half() for table in turns.rope_q]}, "cos_q is torch.float16"),
        ({name: good[name].double() for name in NAMES}, "x is torch.float64"),
        ({"key_ranges": KeyRanges.causal(6, 7)}, "1 rows, 6 queries.*5 queries"),
        ({"key_ranges": KeyRanges.causal(5, 8)}, "8 keys.*7 keys"),
        (
            {"key_ranges": KeyRanges(key_ranges.first.expand(3, -1), key_ranges.end, 7)},
            "key_ranges are of 3 rows",
        ),
        ({"a_o": good["a_o"].to("meta")}, "a_o is on meta"),
    ]
    for wrong, message in bad:
        with pytest.raises(ValueError, match=message):
            lorra_attention(**{**good, **wrong})
