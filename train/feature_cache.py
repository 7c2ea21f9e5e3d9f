"""The features of frozen encoders in a folder: each item goes through its encoder once."""

import hashlib
import json
import os
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.model.fingerprint import digest, fingerprint
from wings.upstream.versions import releases_of

# Names of a file's tensor: `[seq_length, hidden_size]`, or transposed if its memory layout is.
NAME, TRANSPOSED = "features", "features_transposed"
LIBRARIES = ("torch", "transformers", "open_clip_torch", "timm")


class FeatureCache:
    """An encoder's forward that reads what the folder has, and writes what it computes.

    An item is known by its values, an encoder by its class, configuration and weights, and by the
    releases of the libraries that run it. So several stages, runs and processes share a folder, and
    another encoder or other pixels find nothing there.

    Args:
        encoder: frozen; see `wings.encoders.encoder.Encoder`.
        folder: of the features of all encoders.

    Attributes:
        read, computed: how many items.
    """

    def __init__(self, encoder: nn.Module, folder: Path) -> None:
        self.forward: Callable[[Tensor], Tensor] = encoder.forward
        self.encoder: Any = encoder
        self.read = self.computed = 0
        self.parent = folder
        self._writes = True

    @cached_property
    def folder(self) -> Path:
        """The place of this encoder's features, found at the first item, after a resume loads."""
        # Buffers count too: positions of a tower may be among them.
        tensors = {
            **dict(self.encoder.named_parameters()), **dict(self.encoder.named_buffers())
        }  # fmt: skip
        kind = type(self.encoder)
        facts = {
            "class": f"{kind.__module__}.{kind.__qualname__}",
            "config": self.encoder.config,
            "weights": fingerprint(tensors),
            "releases": releases_of(LIBRARIES),
        }
        known = json.dumps(facts, sort_keys=True)
        return self.parent / hashlib.sha256(known.encode()).hexdigest()[:32]

    def __call__(self, values: Tensor) -> Tensor:
        """`[N, *item_shape]` -> `[N, seq_length, hidden_size]` on the device of the values."""
        if not len(values):
            return self.forward(values)
        dtype = self._dtype(values)
        paths = [self._path(item, dtype) for item in values.detach().cpu()]
        # An item may be in a batch twice.
        found = {path: features for path in {*paths} if (features := self._read(path)) is not None}
        lacking = {path: n for n, path in enumerate(paths) if path not in found}
        if lacking:
            computed = self.forward(values[[*lacking.values()]]).detach().cpu()
            found.update(zip(lacking, computed, strict=True))
        for path in lacking:
            self._write(path, found[path])
        self.computed += len(lacking)
        self.read += len(paths) - len(lacking)
        return stack([found[path] for path in paths]).to(values.device)

    def _dtype(self, values: Tensor) -> torch.dtype:
        """The dtype in which the encoder computes."""
        kind = values.device.type
        is_autocast = torch.is_autocast_enabled(kind)
        return torch.get_autocast_dtype(kind) if is_autocast else self.encoder.dtype

    def _path(self, item: Tensor, dtype: torch.dtype) -> Path:
        key = hashlib.sha256(f"{dtype} {digest(item)}".encode()).hexdigest()
        return self.folder / key[:2] / f"{key[2:]}.safetensors"

    def _read(self, path: Path) -> Tensor | None:
        """The features in a file; None without a file, or for one that a crash cut off."""
        try:
            if not path.is_file():
                return None
            ((name, features),) = load_file(path).items()
        except (OSError, SafetensorError, ValueError):
            return None
        features = features.T if name == TRANSPOSED else features
        wanted = (self.encoder.seq_length, self.encoder.hidden_size)
        return features if tuple(features.shape) == wanted else None

    def _write(self, path: Path, features: Tensor) -> None:
        """Writes a file, under its name only when it is whole; processes may do so at once.

        A value that is not finite stops a run, and must not stop the next one too.
        """
        if not self._writes or not features.isfinite().all():
            return
        draft = path.with_name(f"{uuid.uuid4().hex}.draft")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if is_transposed(features):
                save_file({TRANSPOSED: features.T.contiguous()}, draft)
            else:
                save_file({NAME: features.contiguous()}, draft)
            os.replace(draft, path)
        except (OSError, SafetensorError) as error:
            # The run is worth more than its cache.
            self._writes = False
            with suppress(OSError):
                draft.unlink()
            warnings.warn(
                f"feature_cache: {self.folder} cannot be written ({error}); the run goes on, and "
                "computes features that are not there.",
                stacklevel=2,
            )


def is_transposed(features: Tensor) -> bool:
    """True if the first dimension of `[P, F]` is dense in memory, as after pooling of a grid."""
    return features.stride(0) == 1 and features.stride(1) != 1


def stack(items: list[Tensor]) -> Tensor:
    """Features `[N, P, F]` in the memory layout of the encoder's.

    In half precision a product rounds by the layout, so another layout changes the run.
    """
    if all(map(is_transposed, items)):
        return torch.stack([item.T for item in items]).transpose(1, 2)
    return torch.stack(items)


@contextmanager
def cached_features(
    model: WingsForCausalLM, folder: str | None
) -> Iterator[dict[str, FeatureCache]]:
    """In the block, the encoders of all senses read and write `folder`; None changes nothing.

    Returns:
        the caches by sense.
    """
    caches: dict[str, FeatureCache] = {}
    if folder is None:
        yield caches
        return
    encoders = {name: model.model.encoder(sense) for name, sense in model.config.senses.items()}
    caches = {name: FeatureCache(one, Path(folder).expanduser()) for name, one in encoders.items()}
    # Hooks of big models replace a forward too.
    before = {name: vars(encoder).get("forward") for name, encoder in encoders.items()}
    try:
        for name, encoder in encoders.items():
            # A hook of torch could not keep the forward from running.
            encoder.forward = caches[name]
        yield caches
    finally:
        for name, encoder in encoders.items():
            del encoder.forward
            if before[name] is not None:
                encoder.forward = before[name]


def make_folder(folder: str) -> None:
    """Makes the folder of `feature_cache`.

    Raises:
        WingsError: it cannot be made, or nothing can be written there.
    """
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WingsError(
            f"feature_cache: {folder} cannot be made ({error.strerror}); name another folder."
        ) from error
    if not os.access(path, os.W_OK):
        raise WingsError(f"feature_cache: {folder} cannot be written; name another folder.")


def describe_caches(caches: dict[str, FeatureCache]) -> list[str]:
    """A sentence for each sense: how many items this process read and computed."""
    return [
        f"feature_cache: {cache.read:,} items of {name} read, {cache.computed:,} computed in this"
        " process"
        for name, cache in caches.items()
    ]
