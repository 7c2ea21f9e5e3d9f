"""Recipes by name: those that come with the package, such as `qwen2.5-7b/align`."""

from pathlib import Path

SHIPPED = Path(__file__).parent / "recipes"


def names() -> list[str]:
    """The names of all shipped recipes."""
    found = SHIPPED.rglob("*.yaml")
    return sorted(path.relative_to(SHIPPED).with_suffix("").as_posix() for path in found)


def find(name: str) -> Path:
    """The file of a shipped recipe; any other name, and one that is a file here, is a path."""
    shipped = SHIPPED / f"{name}.yaml"
    return shipped if shipped.is_file() and not Path(name).exists() else Path(name)
