"""Releases outside the tested bounds: one warning, never a wrong result; and the bounds' forms."""

import json
import runpy
import subprocess
from importlib.metadata import version
from pathlib import Path

import interpreter
import pytest

import wings
from wings.upstream import versions
from wings.upstream.bounds import BOUNDS

ROOT = Path(__file__).parents[1]


def run(script):
    """A script in a process that has imported torch alone: (exit code, stdout, stderr)."""
    done = interpreter.run(["-c", script], cwd=ROOT)
    return done.returncode, done.stdout, done.stderr


OUTSIDE = "from wings.upstream.bounds import BOUNDS; BOUNDS['transformers'] = ('5.1', '5.2')\n"


def test_a_result_records_the_releases_and_the_commit_of_a_checkout():
    found = versions.recorded_versions()
    assert found["wings-lorra"] == wings.__version__ and found["torch"] == version("torch")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if (ROOT / ".git").exists():
        assert found["commit"].removesuffix("-dirty") == head.stdout.strip()
    else:
        assert "commit" not in found


def test_within_the_bounds_nothing_is_said():
    code, out, error = run(
        "import wings\nwings.WingsForCausalLM\nprint('open_clip' in wings.__dict__)"
    )
    assert code == 0, error
    assert "tested" not in out + error


def test_an_untested_release_is_warned_of_once():
    code, _, error = run(
        OUTSIDE
        + "import wings\nwings.WingsForCausalLM\n"
        + "import wings.model.causal_lm\nimport wings.model.backbone"
    )
    assert code == 0, error
    assert error.count("Wings was not tested with transformers") == 1
    assert "(tested: >=5.1,<5.2)" in error


BREAKS = {
    # A cache that generate drops: every step sees its own token alone.
    "cache": (
        "import transformers\n"
        "prepare = transformers.GenerationMixin.prepare_inputs_for_generation\n"
        "def forgetful(self, input_ids, **kwargs):\n"
        "    inputs = prepare(self, input_ids, **kwargs)\n"
        "    if inputs.get('cache') is not None or inputs.get('past_key_values') is not None:\n"
        "        if inputs['input_ids'].shape[1] == 1:\n"
        "            inputs['input_ids'] = inputs['input_ids'] * 0 + 9\n"
        "    return inputs\n"
        "transformers.GenerationMixin.prepare_inputs_for_generation = forgetful\n"
    ),
    # The step that makes a cache has another name.
    "hook": (
        "import transformers\n"
        "mixin = transformers.GenerationMixin\n"
        "mixin._supports_default_dynamic_cache = lambda self: True\n"
        "generate = mixin.generate\n"
        "def other(self, *args, **kwargs):\n"
        "    raise AttributeError('_make_cache')\n"
        "mixin.generate = other\n"
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_an_untested_release_that_generates_otherwise_is_refused(name):
    code, _, error = run(OUTSIDE + BREAKS[name] + "import wings\nwings.WingsForCausalLM")
    assert code != 0
    assert "WingsError: Wings was not tested with transformers" in error
    assert "install a tested release" in error
    assert ("differs from uncached" if name == "cache" else "generation fails") in error


def test_the_check_finds_no_fault_here():
    from wings.model.causal_lm import WingsForCausalLM
    from wings.model.self_check import generation_fault

    assert generation_fault(WingsForCausalLM) is None


@pytest.mark.parametrize(
    "version, inside",
    [
        ("5.17.0", True), ("5.17", True), ("5.24.3", True), ("5.24.0.dev0", True),
        ("5.25.0.dev0", False), ("5.25", False), ("5.16.9", False), ("6.0.0rc1", False),
        ("5.20.1+cpu", True), ("10.0", False),
    ],
)  # fmt: skip
def test_releases_are_compared_by_their_numbers(version, inside, monkeypatch):
    monkeypatch.setattr(versions, "BOUNDS", {"transformers": ("5.17", "5.25")})
    monkeypatch.setattr(versions.importlib.metadata, "version", lambda library: version)
    assert (not versions.untested_releases()) == inside


def test_a_library_that_is_not_installed_is_not_outside(monkeypatch):
    monkeypatch.setattr(versions, "BOUNDS", {"no-such-library-at-all": ("1", "2")})
    assert versions.untested_releases() == []


def test_setup_takes_its_bounds_from_one_place():
    text = (ROOT / "setup.py").read_text()
    for library, (oldest, newest) in BOUNDS.items():
        assert f"{library}>={oldest},<{newest}" not in text
    assert "bounds.py" in text


def test_the_page_shows_the_table_of_versions():
    made = runpy.run_path(str(ROOT / "tests" / "versions.py"))
    runs = json.loads((ROOT / "docs" / "versions.json").read_text())
    assert {"oldest"} <= set(runs) <= {"oldest", "newest"}
    shown = (ROOT / "docs" / "versions.md").read_text()
    assert f"{made['BEGIN']}\n{made['table'](runs)}\n{made['END']}" in shown
    for run in runs.values():
        assert all("failed" not in count for count in run["tests"].values())
        for library, (oldest, newest) in BOUNDS.items():
            numbers = versions._numbers(run["versions"][library])
            assert versions._numbers(oldest) <= numbers < versions._numbers(newest), library
    low = {library: bounds[0] for library, bounds in BOUNDS.items()}
    for library, release in low.items():
        assert runs["oldest"]["versions"][library].startswith(release), library


def test_the_readme_states_the_bounds():
    status = (ROOT / "README.md").read_text()
    for library in ("torch", "transformers"):
        assert "{} >={},<{}".format(library, *BOUNDS[library]) in status
