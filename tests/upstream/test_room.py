"""Nothing outside of `wings/upstream` touches what other libraries keep private."""

import ast
import importlib
import inspect
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("wings", "train", "eval", "kernels")
# Libraries whose private members and inner modules belong into the room.
GUARDED = ("transformers", "accelerate", "open_clip", "timm", "huggingface_hub", "lm_eval", "peft")
# Modules below the top that their documentation names.
PUBLIC = {
    "accelerate.utils",
    "huggingface_hub.errors",
    "huggingface_hub.utils",
    "transformers.image_processing_utils",
    "transformers.modeling_outputs",
    "transformers.training_args",
    "transformers.utils",
}
# Members that belong to Python or torch, and not to a library above.
PYTHON = {"_fields", "_SubParsersAction", "_exit"}
TORCH = {"_dynamo", "_cdata", "_to_copy", "_parameters", "_buffers", "_modules", "_subclasses"}


def files():
    found = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return [
        path
        for path in found
        if path.parent != ROOT / "wings" / "upstream"
        and not any(parent.is_symlink() for parent in path.parents)
    ]


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files()}


def own_names():
    """Private names that our files define or assign: those are ours."""
    found = Counter()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found[node.name] += 1
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                # Only of oneself: an assignment to another's member is a use of it.
                found[node.attr] += isinstance(node.value, ast.Name) and node.value.id == "self"
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[node.target.id] += 1
            elif isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
                found.update(names)
    return found


def private_uses(tree, ours):
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            if not node.attr.startswith("__") and not ours[node.attr]:
                yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom) and not node.level:
            library = (node.module or "").partition(".")[0]
            if library in GUARDED and node.module not in (*GUARDED, *PUBLIC):
                yield node.lineno, node.module
            for alias in node.names:
                if library in GUARDED and alias.name.startswith("_"):
                    yield node.lineno, alias.name


def test_no_private_member_is_used_outside_the_room():
    ours = own_names()
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path, tree in TREES.items()
        for line, name in private_uses(tree, ours)
        if name not in PYTHON | TORCH
    ]
    assert not found, "move these into wings/upstream: " + ", ".join(found)


@pytest.mark.parametrize(
    "code",
    [
        "config._attn_implementation = 'eager'",
        "from transformers.cache_utils import DynamicLayer",
        "from accelerate import _private",
        "trainer._tr_loss += 1",
    ],
)
def test_a_private_use_is_seen(code):
    assert list(private_uses(ast.parse(code), own_names()))


def modules():
    for path in files():
        inner = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(inner if inner[0] == "wings" else ("wings", *inner))
        if path.stem == "__main__" or name.startswith(
            ("wings.kernels.", "wings.eval.harness.lmms")
        ):
            continue
        yield name.removesuffix(".__init__")


def overridden(kind):
    """Private members of a guarded library that a class of ours defines anew."""
    for name in vars(kind):
        # Python writes `_abc_impl` into every abstract class.
        if not name.startswith("_") or name.startswith("__") or name == "_abc_impl":
            continue
        for base in kind.__mro__[1:]:
            if base.__module__.partition(".")[0] in GUARDED and name in vars(base):
                yield name


def test_no_private_member_is_overridden_outside_the_room():
    found = []
    for module in map(importlib.import_module, modules()):
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ == module.__name__:
                found += [
                    f"{kind.__module__}.{kind.__qualname__}.{name}" for name in overridden(kind)
                ]
    assert not found, "override these in wings/upstream: " + ", ".join(found)


def test_an_overridden_private_member_is_seen():
    from transformers import PreTrainedModel

    class Model(PreTrainedModel):
        def _init_weights(self, module):
            pass

    assert list(overridden(Model)) == ["_init_weights"]
