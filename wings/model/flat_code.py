"""A copy of this package's code for a checkpoint's folder: flat files without subpackages.

transformers runs code from a folder if `trust_remote_code=True`. It follows lines of the form
`from .name import x` to files next to it and nothing else, so every module becomes one such file.
These are left out: the Triton kernels, checks of other libraries, `wings.sharing`, and
registrations, as the classes of several folders may be in one process.
"""

import ast
import importlib.util
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from wings import __version__
from wings.errors import WingsError
from wings.saved_code import FORMAT, MODULE, PART

# The module of each class that `auto_map` names.
CLASSES = {
    "WingsConfig": "wings.config",
    "WingsForCausalLM": "wings.model.causal_lm",
    "WingsImageProcessor": "wings.processing.image_processor",
    "WingsModel": "wings.model.backbone",
    "WingsProcessor": "wings.processing.processor",
}
ROOT = "wings"
UPSTREAM = "wings.upstream"
# What functions import from here runs a kernel, which a copy never chooses.
KERNELS = "wings.kernels."
NO_KERNELS = 'raise ImportError("The kernels are in the package wings-lorra.")'
# Its classes only add to transformers' own; in a copy they are empty.
SHARING = "wings.sharing."
HEAD = f"# SPDX-License-Identifier: Apache-2.0\n# Copied from wings-lorra {__version__}.\n"
# The name by which a module of the copy can be imported as a whole.
ITSELF = "this_module"
MAIN = '''"""The classes of this checkpoint, from the installed wings-lorra or from a copy of it."""

FORMAT = {format}

try:
    from wings.saved_code import FORMAT as installed_format

    if installed_format < FORMAT:
        raise ImportError("The installed wings-lorra is older than this folder.")
{installed}
except ImportError:
{copied}
'''


def flat_files() -> dict[str, str]:
    """Makes the files of a copy, as name -> text.

    Raises:
        WingsError: a source file of the package is missing.
    """
    modules: dict[str, Module] = {}
    todo = sorted(CLASSES.values())
    while todo:
        if (name := todo.pop()) not in modules:
            modules[name] = Module(name)
            todo += [one.module for one in modules[name].imports]
    whole = {one.module for m in modules.values() for one in m.imports if one.name == ITSELF}
    files = {f"{flat_name(name)}.py": module.flat() for name, module in modules.items()}
    for name in whole:
        files[f"{flat_name(name)}.py"] += f"\nimport sys\n\n{ITSELF} = sys.modules[__name__]\n"
    installed = [f"    from {module} import {name}" for name, module in CLASSES.items()]
    copied = [f"    from .{flat_name(module)} import {name}" for name, module in CLASSES.items()]
    main = MAIN.format(format=FORMAT, installed="\n".join(installed), copied="\n".join(copied))
    return {f"{MODULE}.py": HEAD + main, **{name: HEAD + files[name] for name in sorted(files)}}


def flat_name(module: str) -> str:
    """The name of a module's file in a copy, without `.py`."""
    return PART.format(module.removeprefix(f"{ROOT}.").replace(".", "_")).removesuffix(".py")


class Import(NamedTuple):
    """One name that a module imports from another module of this package."""

    module: str
    name: str
    local: str


class Module:
    """A module of this package, and what a copy has of it."""

    def __init__(self, name: str) -> None:
        self.package = name.rpartition(".")[0]
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise WingsError(f"The source of {name} is missing: install wings-lorra again.")
        self.lines = Path(spec.origin).read_text(encoding="utf-8").splitlines()
        self.tree = ast.parse("\n".join(self.lines))

    @cached_property
    def kept(self) -> list[ast.AST]:
        """All nodes that a copy has."""
        return [n for node in self.tree.body if not self.is_left_out(node) for n in ast.walk(node)]

    @cached_property
    def used(self) -> set[str]:
        """Names that the kept nodes read; strings among them may be annotations or `__all__`."""
        names = {node.id for node in self.kept if isinstance(node, ast.Name)}
        return names | {str(node.value) for node in self.kept if isinstance(node, ast.Constant)}

    def is_left_out(self, node: ast.stmt) -> bool:
        """True for contracts, their checks and registrations."""
        if isinstance(node, ast.Assign):
            return [ast.unparse(target) for target in node.targets] == ["CONTRACTS"]
        if isinstance(node, ast.FunctionDef):
            return self.package == UPSTREAM and node.name.startswith("_check_")
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func)
            return called == "register_model" or (called[:4] == "Auto" and "register" in called)
        return False

    @property
    def imports(self) -> list[Import]:
        """All that a copy imports from other modules of this package."""
        nodes = [node for node in self.kept if isinstance(node, ast.ImportFrom)]
        return [one for node in nodes for one in self.imports_of(node) or ()]

    def imports_of(self, node: ast.ImportFrom) -> list[Import] | None:
        """The used names of an import; None if it is not of this package's modules."""
        base = node.module or ""
        if node.level:
            parents = self.package.split(".")
            base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
        if base.partition(".")[0] != ROOT or base == ROOT:
            return None
        if base.startswith(SHARING) or (base.startswith(KERNELS) and node not in self.tree.body):
            return []
        found = []
        for alias in node.names:
            local, inner = alias.asname or alias.name, f"{base}.{alias.name}"
            if local in self.used:
                is_whole = not is_module(base)
                found.append(Import(*((inner, ITSELF) if is_whole else (base, alias.name)), local))
        return found

    def flat(self) -> str:
        """The text of the copy."""
        lines: list[str | None] = list(self.lines)
        for statement in self.tree.body:
            if self.is_left_out(statement):
                replace(lines, statement, [])
        for node in self.kept:
            if isinstance(node, ast.ImportFrom):
                if [alias.name for alias in node.names] == ["__version__"]:
                    replace(lines, node, [f"__version__ = {__version__!r}"])
                elif (imports := self.imports_of(node)) is not None:
                    replace(lines, node, list(self.statements(node, imports)))
        return "\n".join(line for line in lines if line is not None).rstrip() + "\n"

    def statements(self, node: ast.ImportFrom, imports: list[Import]) -> Iterator[str]:
        """The imports of a copy in place of one of the package."""
        if (node.module or "").startswith(SHARING):
            yield from (f"class {alias.name}:\n    pass\n" for alias in node.names)
        elif not imports and node not in self.tree.body:
            yield NO_KERNELS
        for one in imports:
            renamed = "" if one.local == one.name else f" as {one.local}"
            yield f"from .{flat_name(one.module)} import {one.name}{renamed}"


def is_module(name: str) -> bool:
    """True for a file of Python, False for a package."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.submodule_search_locations is None


def replace(lines: list[str | None], node: ast.stmt, new: list[str]) -> None:
    """Puts other lines in place of a statement, indented as it was."""
    assert node.end_lineno is not None
    old = slice(node.lineno - 1, node.end_lineno)
    indented = [" " * node.col_offset + line for line in new]
    lines[old] = ["\n".join(indented) if indented else None] + [None] * (
        node.end_lineno - node.lineno
    )
