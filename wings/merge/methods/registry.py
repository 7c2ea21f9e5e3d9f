"""All methods by name: our own, and those of mergekit where it is installed."""

from collections.abc import Iterable, Mapping
from importlib.util import find_spec

from wings.errors import WingsError, nearest
from wings.extras import require
from wings.upstream.mergekit import mergekit_methods

from .linear import Linear
from .mergekit_method import MergekitMethod
from .method import Method
from .task_arithmetic import TaskArithmetic
from .ties import Ties
from .weighted import Weighted

OWN: Mapping[str, Method] = {
    method.name: method for method in (Linear(), TaskArithmetic(), Ties(), Weighted())
}
# Methods of mergekit as of 0.1.5, so that one is known where it is not installed.
OF_MERGEKIT = (
    "arcee_fusion", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties", "della",
    "della_linear", "karcher", "model_stock", "multislerp", "nearswap", "nuslerp", "passthrough",
    "ram", "ramplus_tl", "sce", "slerp",
)  # fmt: skip


def find_method(name: str) -> Method:
    """The method of a name.

    Raises:
        WingsError: an unknown name, or one of mergekit, which is not installed.
    """
    if name in OWN:
        return OWN[name]
    if find_spec("mergekit") is None:
        if name in OF_MERGEKIT:
            require("mergekit")
        known: Iterable[str] = OF_MERGEKIT
    else:
        theirs = mergekit_methods()
        if name in theirs:
            return MergekitMethod(name, theirs[name])
        known = theirs
    raise WingsError(
        f"There is no merge method '{name}'{nearest(name, [*OWN, *known])}: choose one of"
        f" {', '.join(OWN)}, or one of mergekit."
    )
