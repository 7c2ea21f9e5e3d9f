"""Arguments that routed attention refuses before a launch, by name."""

import os
import subprocess
import sys

import pytest
import torch

from wings.kernels.key_ranges import KeyRanges
from wings.kernels.routed_attention.forward import routed_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def wrong(**changes):
    new = {"dtype": torch.float16, "device": DEVICE}
    given = {"q": torch.zeros(2, 4, 8, 16, **new), "columns": torch.zeros(2, 10, 2, device=DEVICE)}
    given["k"] = given["v"] = torch.zeros(2, 2, 10, 16, **new)
    given |= {"key_ranges": KeyRanges.causal(8, 10, device=DEVICE), "scale": 1.0}
    return {**given, **{name: change(given[name]) for name, change in changes.items()}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"q": lambda x: x[0]}, r"q has shape \[4, 8, 16\]; it must be \[B, H, T, d\]"),
        ({"columns": lambda x: x[0]}, r"columns has shape \[10, 2\]"),
        ({"k": lambda x: x[..., :8]}, r"k has shape .* needs \[2, G, S, 16\]"),
        ({"k": lambda x: x[:1]}, r"k has shape \[1, 2, 10, 16\]"),
        ({"q": lambda x: x[:, :3]}, r"k has 2 heads, which do not divide q's 3"),
        ({"v": lambda x: x[:, :, :9]}, r"v has shape \[2, 2, 9, 16\]"),
        ({"v": lambda x: x[:, :1]}, r"v has shape \[2, 1, 10, 16\]"),
        ({"columns": lambda x: x[:, :9]}, r"columns has shape \[2, 9, 2\]"),
        ({"columns": lambda x: x.repeat(1, 1, 33)}, r"columns has C = 66; 1 to 64"),
        ({"columns": lambda x: x[..., :0]}, r"columns has C = 0"),
        ({"columns": lambda x: x.long()}, r"columns are torch.int64"),
        (
            {"q": lambda x: x.repeat(1, 1, 1, 17), "k": lambda x: x.repeat(1, 1, 1, 17)},
            "q has width 272",
        ),
        ({"v": lambda x: x.float()}, r"v is torch.float32 but q is torch.float16"),
        ({name: lambda x: x.double() for name in "qkv"}, r"q is torch.float64; the kernels take"),
        ({"columns": lambda x: x.to("meta")}, r"columns is on meta but q is on"),
        (
            {"key_ranges": lambda x: KeyRanges.causal(7, 10, device=DEVICE)},
            r"1 rows, 7 queries and 10 keys",
        ),
        (
            {"key_ranges": lambda x: KeyRanges.causal(8, 9, device=DEVICE)},
            r"8 queries and 9 keys, but the tensors have 2 rows, 8 queries and 10 keys",
        ),
        (
            {"key_ranges": lambda x: KeyRanges(x.first.expand(3, -1), x.end, 10)},
            r"key_ranges are of 3 rows",
        ),
        ({"scale": lambda x: -x}, r"scale is -1.0; it must be above 0"),
        ({"scale": lambda x: float("nan")}, r"scale is nan"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, said):
    with pytest.raises(ValueError, match=said):
        routed_attention(**wrong(**change))


def test_a_cpu_is_refused_where_the_interpreter_is_off():
    script = (
        "import torch\n"
        "from wings.kernels.routed_attention.forward import routed_attention\n"
        "from wings.kernels.key_ranges import KeyRanges\n"
        "x = torch.zeros(1, 1, 4, 16)\n"
        "routed_attention(x, x, x, x[0, ..., :1], KeyRanges.causal(4, 4), 1.0)\n"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "ValueError: q is on cpu, where Triton's kernels do not run" in done.stderr
