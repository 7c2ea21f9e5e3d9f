"""The house: which room may import which, and what must not stand in one."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("kernels", "train", "eval", "examples")
BENCH = ("kernels", "bench")
# Families of decoders and their relatives; a few of many, but those that one would reach for.
FAMILY_NAMES = (
    "llama", "qwen", "mistral", "mixtral", "gemma", "phi3", "olmo", "granite", "smollm", "cohere",
    "gpt_neox", "gptneox", "gpt2", "deepseek", "falcon", "bloom", "stablelm", "nemotron",
)  # fmt: skip


def files(room):
    return [
        path
        for path in sorted((ROOT / room).rglob("*.py"))
        if not any(parent.is_symlink() for parent in path.parents)
    ]


def room_of(path):
    inner = path.relative_to(ROOT).parts
    if inner[0] == "wings" and inner[1] == "cli":
        return "cli"
    return "bench" if inner[:2] == BENCH else inner[0]


def imported(path):
    """Absolute names of the `wings` modules that a file imports."""
    inner = path.relative_to(ROOT).with_suffix("").parts
    package = ("wings", *inner) if inner[0] in ROOMS else inner
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def rooms_imported(path):
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "wings" and tuple(parts[1:3]) == BENCH:
            yield "bench"
        elif parts[0] == "wings":
            known = len(parts) > 1 and parts[1] in (*ROOMS, "cli")
            yield parts[1] if known else "wings"


# Nothing may import the bench: it is a program, the one place in its room that knows models.
ALLOWED = {
    "kernels": {"kernels"},
    "bench": {"bench", "kernels", "wings"},
    "wings": {"wings", "kernels"},
    "train": {"train", "wings"},
    "eval": {"eval", "wings"},
    "examples": {"examples", "train", "eval", "wings"},
    "cli": {"cli", "examples", "train", "eval", "wings"},
}


# The folders and files of `wings/`, from the ground up: each may import from its own floor and from
# those below.
FLOORS = (
    {"errors", "__init__"},
    {"endings", "saved_files"},
    {"upstream"},
    {"config_fields", "config_values", "extras", "output_folder", "saved_code"},
    {"lora_options", "machine", "sense"},
    {"config", "sharing"},
    {"attention", "encoders"},
    {"layers", "processing"},
    {"cache", "records"},
    {"model"},
    {"merge", "serving"},
    {"cli"},
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def test_imports_between_the_folders_of_wings_run_one_way():
    for path in files("wings"):
        own = path.relative_to(ROOT / "wings").parts[0].removesuffix(".py")
        # What `import wings` offers is imported when it is asked for.
        if own == "__init__":
            continue
        for name in imported(path):
            parts = name.split(".")
            if parts[0] != "wings" or len(parts) < 2 or parts[1] in ROOMS or parts[1] not in FLOOR:
                continue
            below = FLOOR[parts[1]] < FLOOR[own] or parts[1] == own
            assert below, f"{path.relative_to(ROOT)} imports {name}"


def test_no_file_imports_itself_in_a_circle():
    modules = {}
    for room in ("wings", *ROOMS):
        for path in files(room):
            inner = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(("wings", *inner) if inner[0] in ROOMS else inner)
            modules[name.removesuffix(".__init__")] = set(imported(path))
    graph = {
        name: {other for other in used if other in modules and other not in (name, "wings")}
        for name, used in modules.items()
    }
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("room", ["wings", *ROOMS])
def test_imports_run_one_way(room):
    for path in files(room):
        # The rooms are namespace packages inside `wings`, whose name alone says nothing.
        used = {name for name in rooms_imported(path)}
        forbidden = used - ALLOWED[room_of(path)]
        assert not forbidden, f"{path.relative_to(ROOT)} imports from {sorted(forbidden)}"


def test_the_bench_alone_may_know_models(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    bench = tmp_path / "kernels" / "bench" / "model.py"
    kernel = tmp_path / "kernels" / "attention.py"
    bench.parent.mkdir(parents=True)
    bench.write_text(
        "from wings import WingsConfig\nfrom ..key_ranges import KeyRanges\nfrom . import row\n"
    )
    kernel.write_text("from .bench.row import Row\n")
    assert set(rooms_imported(bench)) <= ALLOWED[room_of(bench)]
    assert set(rooms_imported(kernel)) - ALLOWED[room_of(kernel)] == {"bench"}


def test_nothing_in_wings_names_a_family():
    for path in files("wings"):
        tree = ast.parse(path.read_text())
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        # Contracts with transformers are proven on small decoders, which are of some family.
        if room_of(path) == "cli" or path.parent.name == "upstream":
            continue
        for node in ast.walk(tree):
            word = ""
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                word = "" if id(node) in docstrings else node.value
            elif isinstance(node, ast.Name):
                word = node.id
            elif isinstance(node, ast.Attribute):
                word = node.attr
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                word = " ".join(alias.name for alias in node.names)
                word += " " + (getattr(node, "module", "") or "")
            found = [name for name in FAMILY_NAMES if name in word.lower()]
            assert not found, f"{path.name}:{node.lineno} names {found[0]}"


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_are_links_and_no_packages_of_their_own(room):
    assert (ROOT / "wings" / room).resolve() == ROOT / room
    # A folder `kernels` with this file would shadow a library of that name.
    assert not (ROOT / room / "__init__.py").exists()


def test_import_needs_neither_triton_nor_the_other_rooms():
    script = (
        "import sys\n"
        "sys.modules['triton'] = None\n"
        "import wings\n"
        "names = [getattr(wings, name) for name in wings.__all__]\n"
        "rooms = ('wings.train', 'wings.eval', 'wings.examples')\n"
        "loaded = [name for name in sys.modules if name.startswith(rooms)]\n"
        "assert not loaded, loaded\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
