"""Fingerprints: one digest of many tensors, by which a checkpoint knows the model it belongs to."""

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

# Threads at most; hashing does not hold the interpreter's lock.
THREADS = 8
LENGTH = 32


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Computes a digest of the names, dtypes, shapes and bits of tensors, in any order.

    A tensor on an accelerator is copied for it; there are at most `THREADS` such copies at a time.

    Returns:
        32 hexadecimal digits.
    """
    names = sorted(tensors)
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        digests = pool.map(digest, (tensors[name] for name in names))
        return fingerprint_of(dict(zip(names, digests, strict=True)))


def fingerprint_of(digests: Mapping[str, str]) -> str:
    """Computes the fingerprint of tensors whose digests are known."""
    lines = [f"{name} {digests[name]}\n" for name in sorted(digests)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:LENGTH]


def digest(tensor: Tensor) -> str:
    """Computes a text of the dtype, the shape and the bits of a tensor."""
    bits = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    found = hashlib.sha256(bits.data).hexdigest()
    return f"{tensor.dtype} {list(tensor.shape)} {found}"
