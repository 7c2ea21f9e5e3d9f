"""Registers Wings with transformers' Auto classes in time, without importing transformers early.

`import wings` costs little: the command line starts with it, and torch and transformers take
seconds. But `AutoModelForCausalLM.from_pretrained` must know Wings after a plain `import wings`,
whichever of the two packages came first. Both hold with a finder that waits for the four modules
of transformers that hold the Auto classes. When one of them has been imported, the module of Wings
that registers itself there is imported too.

It waits until the outermost import of transformers or Wings has ended. During one, some module is
partly executed, and a class that Wings derives from may not exist yet. To notice the end,
the finder wraps the loader of each module of the two packages, as `importlib.util.LazyLoader` does.
Once all four are registered it removes itself.
"""

import importlib
import sys
import threading
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .contract import Contract

# The module that holds an Auto class, and the module of Wings that registers a class there.
REGISTERS = {
    "transformers.models.auto.configuration_auto": "wings.config",
    "transformers.models.auto.modeling_auto": "wings.model.causal_lm",
    "transformers.models.auto.image_processing_auto": "wings.processing.image_processor",
    "transformers.models.auto.processing_auto": "wings.processing.processor",
}
WATCHED = ("transformers", "wings")


def register_in_time() -> None:
    """Register what transformers has loaded already, and the rest when it is loaded."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    finder.settle()


class _Finder(MetaPathFinder):
    """Finds no module itself: it counts running imports in the loaders that others find."""

    def __init__(self) -> None:
        self.pending = dict(REGISTERS)
        self.running = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a watched module with a loader that counts; None for all others."""
        if fullname.partition(".")[0] not in WATCHED:
            return None
        for finder in sys.meta_path:
            search = getattr(finder, "find_spec", None)
            if finder is self or search is None:
                continue
            spec: ModuleSpec | None = search(fullname, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _CountingLoader(spec.loader, self)
                return spec
        return None

    @property
    def depth(self) -> int:
        """Imports of watched modules that run in this thread."""
        return getattr(self.running, "depth", 0)

    def settle(self) -> None:
        """Register all that is due, unless an import is running."""
        if self.depth:
            return
        self.running.depth = 1
        try:
            while due := [holder for holder in self.pending if holder in sys.modules]:
                for holder in due:
                    importlib.import_module(REGISTERS[holder])
                    self.pending.pop(holder, None)
        finally:
            self.running.depth = 0
        if not self.pending and self in sys.meta_path:
            sys.meta_path.remove(self)


class _CountingLoader(Loader):
    """Another loader; while it executes its module, the finder knows that an import runs."""

    def __init__(self, loader: Any, finder: _Finder) -> None:
        self.loader = loader
        self.finder = finder

    def __getattr__(self, name: str) -> Any:
        # `python -m` asks a loader for code, and inspect for source.
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leave it to the other loader."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module; at the end of the outermost import, register what is due."""
        # From here on the module has its own loader again.
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.finder.running.depth = self.finder.depth + 1
        try:
            self.loader.exec_module(module)
        finally:
            self.finder.running.depth = self.finder.depth - 1
        self.finder.settle()


CONTRACTS = (
    Contract(
        library="transformers",
        since="5.17",
        sentence="each Auto class is in a module of its own, which its use imports",
        members=(
            "transformers.models.auto.configuration_auto:AutoConfig",
            "transformers.models.auto.configuration_auto:AutoConfig.register"
            "(model_type, config, exist_ok)",
            "transformers.models.auto.modeling_auto:AutoModel",
            "transformers.models.auto.image_processing_auto:AutoImageProcessor.register"
            "(config_class, image_processor_classes, exist_ok)",
            "transformers.models.auto.processing_auto:AutoProcessor.register"
            "(config_class, processor_class, exist_ok)",
        ),
    ),
)
