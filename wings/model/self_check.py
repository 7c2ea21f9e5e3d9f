"""A proof, on a tiny model, that cached and uncached generation agree with this installation."""

from collections.abc import Callable

import torch

from wings.config import WingsConfig
from wings.errors import WingsError
from wings.upstream.contract import BrokenContract, contracts
from wings.upstream.tiny import tiny_config
from wings.upstream.versions import untested_releases, warn_of

TOWER = {"vision_cfg": {"image_size": 4, "patch_size": 2, "width": 8, "layers": 2, "head_width": 8}}
STEPS = 3
# Both ways compute the same sums in another order.
ROUNDING = 1e-4


def check_untested_releases(model_class: Callable) -> None:
    """Proves generation where a library is outside the tested bounds, and warns of it.

    Raises:
        WingsError: cached generation differs from uncached, or fails.
    """
    releases = untested_releases()
    if not releases:
        return
    try:
        fault = generation_fault(model_class)
    except Exception as error:
        fault = f"generation fails ({type(error).__name__}: {error})"
    if fault is not None:
        raise WingsError(
            f"Wings was not tested with {', '.join(releases)}, and with it {fault}: install a "
            f"tested release. {broken_contracts()}".rstrip()
        )
    warn_of(releases)


@torch.no_grad()
def generation_fault(model_class: Callable) -> str | None:
    """Describes how cached generation after an image differs from uncached; None if it does not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = WingsConfig(
            text_config=tiny_config(), vision_config=TOWER, rank=2, router="modality"
        )
        model = model_class(config).eval()
        for name, parameter in model.named_parameters():
            # Fresh learners add nothing, so that their caches could be wrong unseen.
            if ".wings." in name:
                parameter.normal_(std=0.5)
        image = [config.image_token_id] * config.image_seq_length
        batch = {
            "input_ids": torch.tensor([[3, *image, 4, 5], [0] * len(image) + [6, 7, 8]]),
            "pixel_values": torch.randn(1, 3, 4, 4),
        }
        batch["attention_mask"] = (batch["input_ids"] != 0).long()
        scores = [
            model.generate(
                **batch, use_cache=cached, do_sample=False, pad_token_id=0,
                max_new_tokens=STEPS, min_new_tokens=STEPS,
                return_dict_in_generate=True, output_logits=True,
            ).logits
            for cached in (True, False)
        ]  # fmt: skip
    cached, uncached = (torch.stack(each) for each in scores)
    error = float((cached - uncached).abs().max())
    if not error <= ROUNDING * max(1.0, float(uncached.abs().max())):
        return f"cached generation differs from uncached by {error:.2g} in a logit"
    return None


def broken_contracts() -> str:
    """The first sentence about what changed in a library, or nothing."""
    for _, contract in contracts(importable_only=True):
        try:
            contract.verify()
        except BrokenContract as error:
            return str(error)
    return ""
