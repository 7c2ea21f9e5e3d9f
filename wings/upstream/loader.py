"""The loader that accelerate wraps, and the end of torch's data workers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.data_loader import DataLoaderAdapter
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from .contract import Contract


@contextmanager
def batches_of(loader: DataLoader) -> Iterator[Iterator[Any]]:
    """Iterates over a loader inside the block; its workers have exited at the end of it.

    Without this, an error may leave the iterator to Python's garbage collector. The collector
    closes the queues of the workers first, so none learns of the end. torch then waits 5 seconds
    for each worker and terminates it.
    """
    batches = iter(loader)
    try:
        yield batches
    finally:
        _end_workers(batches)


def base_loader(loader: DataLoader) -> DataLoader:
    """The loader that accelerate wraps, or the loader itself."""
    return loader.base_dataloader if isinstance(loader, DataLoaderAdapter) else loader


def end_persistent_workers(loader: DataLoader) -> None:
    """Waits until the persistent workers of a loader have exited; it may start others later."""
    batches, loader._iterator = loader._iterator, None
    _end_workers(batches)


def _end_workers(batches: Iterator[Any] | None) -> None:
    if isinstance(batches, _MultiProcessingDataLoaderIter):
        batches._shutdown_workers()


def _check_ends() -> None:
    data = TensorDataset(torch.arange(3))
    loader = DataLoader(data, num_workers=1, persistent_workers=True)
    first = iter(loader)
    assert isinstance(first, _MultiProcessingDataLoaderIter) and loader._iterator is first
    (worker,) = first._workers
    next(first)
    end_persistent_workers(loader)
    assert worker.exitcode == 0, f"a worker ended with exit code {worker.exitcode}"
    with batches_of(loader) as again:
        assert again is not first and len(list(again)) == 3, "a loader cannot be used again"


CONTRACTS = (
    Contract(
        "torch",
        "2.11",
        "_shutdown_workers of a loader's iterator lets its workers exit, and a loader keeps the "
        "iterator of persistent workers as _iterator",
        (
            "torch.utils.data.dataloader:_MultiProcessingDataLoaderIter._shutdown_workers",
            "torch.utils.data:DataLoader(persistent_workers)",
        ),
        check=_check_ends,
    ),
    Contract(
        "accelerate",
        "1.13",
        "a loader that accelerate prepared keeps the one it was made of as base_dataloader, whose "
        "worker_init_fn its workers call",
        ("accelerate.data_loader:DataLoaderAdapter(dataset)",),
    ),
)
