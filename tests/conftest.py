"""Fixed random numbers unless `--fresh` asks for others; Triton's interpreter without a GPU."""

import gc
import importlib.util
import os

import pytest
import torch
from child_processes import children_end  # noqa: F401
from deprecations import no_deprecated_call  # noqa: F401  an autouse fixture
from draws import SEEDS, new_seed, seed_all
from hypothesis import settings

# One thread, here and in every process that a test starts: sums over two threads round otherwise,
# and forked processes, which must have one, are compared with this one by the bit.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# Kernels run in the interpreter where there is no GPU; it must be asked for beforehand.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
    if importlib.util.find_spec("triton") is not None:
        importlib.import_module("triton_interpreter").drop_unused_work()


def pytest_addoption(parser):
    parser.addoption(
        "--fresh", nargs="?", type=int, const=-1, metavar="SEED",
        help="draw new random numbers and ten times as many examples; SEED repeats a run",
    )  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    seed = config.option.fresh
    if hasattr(config, "workerinput"):
        # A worker of pytest-xdist draws what the process that started it says.
        seed = config.workerinput["fresh"]
    elif seed == -1:
        seed = new_seed()
    elif seed is not None and not 0 <= seed < SEEDS:
        raise pytest.UsageError(f"--fresh {seed} is no seed. Give a number from 0 to {SEEDS - 1}.")
    config.option.fresh = seed
    settings.load_profile("fixed" if seed is None else "fresh")
    if seed is not None and config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(seed)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["fresh"] = node.config.option.fresh


def pytest_report_header(config):
    if config.option.fresh is not None:
        return f"random numbers: fresh; repeat them with --fresh={config.option.fresh}"
    return "random numbers: fixed; draw others with --fresh"


def pytest_terminal_summary(terminalreporter, config):
    # With -q there is no header.
    if config.option.fresh is not None:
        terminalreporter.write_line(pytest_report_header(config))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    # Before all fixtures, also those that are made once for many tests.
    seed_all(item.config.option.fresh or 0)


def pytest_collection_finish():
    # Training ends with a full collection, which would visit all that was imported every time.
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))
