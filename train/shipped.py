"""The recipes that come with the package, by name."""

from pathlib import Path

_FOLDER = Path(__file__).parent / "recipes"


def shipped() -> list[str]:
    """Their names."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def recipe_file(name: str) -> Path:
    """The file that a command means: a path, or the name of a shipped recipe."""
    return _FOLDER / f"{name}.yaml" if name in shipped() and not Path(name).exists() else Path(name)
