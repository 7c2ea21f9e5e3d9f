"""Random numbers of the tests: from fixed seeds by default, from new ones with `--fresh`."""

import random
import secrets

import numpy as np
import torch
from hypothesis import HealthCheck, register_random, settings

# Seeds of torch and numpy end here.
SEEDS = 2**32
# Fresh runs try this many times as many examples.
MORE = 10

# Neither what a machine has met before nor how fast it is may decide about a test.
STEADY = {
    "database": None,
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow],
}
settings.register_profile("fixed", derandomize=True, **STEADY)
settings.register_profile("fresh", max_examples=100 * MORE, print_blob=True, **STEADY)


class TorchNumbers:
    """torch's global generator, for hypothesis: every example begins with the same numbers."""

    first = 0

    def seed(self, number):
        torch.manual_seed((self.first + number) % SEEDS)

    def getstate(self):
        return torch.get_rng_state()

    def setstate(self, state):
        torch.set_rng_state(state)


# hypothesis keeps no reference of its own.
TORCH_NUMBERS = TorchNumbers()
register_random(TORCH_NUMBERS)


def new_seed():
    return secrets.randbelow(SEEDS)


def seed_all(number):
    """Seeds the global generators of Python, numpy and torch."""
    TORCH_NUMBERS.first = number
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def examples(count, **options):
    """Settings of a hypothesis test: tries `count` examples, `MORE` times as many if fresh."""
    return settings(max_examples=count * settings.default.max_examples // 100, **options)
