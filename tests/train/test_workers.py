"""Data workers that fail or end, as what asks them for batches hears of it."""

import os
import signal
import threading

import pytest
from torch.utils.data import DataLoader, Dataset

from wings.errors import WingsError
from wings.train.data.workers import LostWorker, reporting_lost_workers, unwrapping_worker_errors


def fail(error):
    raise error


def fail_before_the_end_of(worker):
    threading.Timer(0.2, os.kill, (worker, signal.SIGKILL)).start()
    raise EOFError


class HalfHandedOver:
    """An object that cannot be unpickled, as after the death of a worker."""

    def __init__(self, *what):
        self.what = what

    def __reduce__(self):
        return self.what[0], self.what[1:]


class Deed(Dataset):
    """Records that come of one deed in the worker."""

    def __init__(self, deed, *arguments):
        self.deed, self.arguments = deed, arguments

    def __len__(self):
        return 4

    def __getitem__(self, number):
        return self.deed(*self.arguments)


def first_of(records):
    return records[0]


def kill_oneself():
    os.kill(os.getpid(), signal.SIGKILL)


def hand_over_and_die():
    return HalfHandedOver(fail_before_the_end_of, os.getpid())


def first_batch(*deed, workers=1):
    # With names and not lambdas, which a worker that is not forked would not know.
    loader = DataLoader(Deed(*deed), num_workers=workers, collate_fn=first_of)
    with reporting_lost_workers(), unwrapping_worker_errors(workers):
        return next(iter(loader))


def test_a_batch_comes_as_it_is():
    assert first_batch(int, "7") == 7


@pytest.mark.parametrize("error", [EOFError, ConnectionResetError, ConnectionRefusedError])
def test_a_worker_that_ends_over_a_batch_is_lost(error):
    with pytest.raises(LostWorker, match=rf"half a batch, {error.__name__}.*lower workers$"):
        first_batch(HalfHandedOver, fail, error())


def test_the_news_of_its_end_does_not_come_later():
    with pytest.raises(LostWorker, match=r"exited \(DataLoader worker \(pid .* killed by signal"):
        first_batch(hand_over_and_die)


def test_a_worker_that_is_killed_is_lost():
    with pytest.raises(
        LostWorker, match=r"data worker exited \(DataLoader worker .*lower workers$"
    ):
        first_batch(kill_oneself)


def test_a_worker_says_its_sentence_alone():
    with pytest.raises(WingsError, match=r"^record 3 is no picture$") as error:
        first_batch(fail, WingsError("record 3 is no picture"))
    assert not isinstance(error.value, LostWorker)


@pytest.mark.parametrize("error", [EOFError, ConnectionResetError, RuntimeError])
def test_what_a_worker_raises_is_no_end_of_it(error):
    with pytest.raises(error, match=r"(?s)^Caught .*worker process 0.*a broken archive"):
        first_batch(fail, error("a broken archive"))


@pytest.mark.parametrize("error", [EOFError, ConnectionResetError])
def test_without_workers_none_is_lost(error):
    with pytest.raises(error, match=r"^a broken archive$"):
        first_batch(fail, error("a broken archive"), workers=0)
