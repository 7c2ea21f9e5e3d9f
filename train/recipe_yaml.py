"""YAML of recipes: YAML 1.2 with its core schema, in which `on`, `no` and dates are texts.

`yamlcore` has exactly that schema, in 12 kB on top of PyYAML, which transformers installs anyway.
The others that were compared: `ruamel.yaml` is typed, but its 1.2 makes dates of `2026-01-01`,
numbers of `1_000` and `0b11`, and merges `<<`. `py-yaml12` has the schema, but takes the last of
two equal keys and the first of two documents without a word, and gives no place for a key.
"""

from collections.abc import Iterator
from typing import Any

import yaml
import yamlcore

from wings.errors import WingsError

# Values of a recipe, aliases counted each time.
_MOST_VALUES = 100_000
# A part of the parser's message -> the remedy.
_REMEDIES = {
    "'\\t'": "write spaces instead of tabs",
    "cannot start any token": "put the text in quotes",
    "mapping values are not allowed": "put a text with ': ' in quotes, and indent keys alike",
    "another document": "keep one recipe in a file, without a second line '---'",
    "the tag": "remove the tag that begins with '!'",
    "is not allowed": "remove the character",
    "alias": "put a text that begins with '*' in quotes, or add the anchor of an alias",
}


class _Loader(yamlcore.CoreLoader):
    """yamlcore's loader; errors in Python's own conversions get a line too."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise yaml.constructor.ConstructorError(
                None, None, str(error), node.start_mark
            ) from error


def read_yaml(text: str, where: str) -> Any:
    """The plain values of a YAML text: mappings, lists, texts, numbers, true, false and null.

    Anchors and aliases work. Tabs outside of quotes are refused, also where YAML 1.2 allows them.

    Args:
        text: one YAML document.
        where: named in errors, such as the file.

    Raises:
        WingsError: broken YAML, a tag, a second document, a key written twice, a merge key, or so
            many or so deep values (by aliases) that nobody typed them; names `where` and the line.
    """
    try:
        # Not `yaml.load`: the nodes have lines, and their values do not.
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _validate_keys(root, where)
        return loader.construct_document(root)
    except WingsError:
        raise
    except yaml.YAMLError as error:
        raise _unreadable(error, text, where) from error
    except RecursionError as error:
        raise WingsError(f"{where}: is nested too deeply; write fewer brackets.") from error


def write_yaml(values: dict[str, Any]) -> str:
    """YAML that `read_yaml` reads back as the same values, keys in their order.

    Raises:
        yaml.YAMLError: a value that is no plain one.
    """
    return yaml.dump(values, Dumper=yamlcore.CoreDumper, sort_keys=False, allow_unicode=True)


def _validate_keys(root: yaml.Node, where: str) -> None:
    for node in _nodes(root, where):
        if not isinstance(node, yaml.MappingNode):
            continue
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            line, name = key.start_mark.line + 1, (key.tag, str(key.value))
            if key.value == "<<":
                raise WingsError(
                    f"{where}: line {line}: '<<' is no key, as YAML 1.2 has no merge keys; write"
                    " the keys out."
                )
            if name in lines:
                raise WingsError(
                    f"{where}: line {line}: the key {key.value!r:.60} is written twice, first in"
                    f" line {lines[name]}; remove one."
                )
            lines[name] = line


def _nodes(root: yaml.Node, where: str) -> Iterator[yaml.Node]:
    waiting, count = [root], 0
    while waiting:
        node = waiting.pop()
        count += 1
        if count > _MOST_VALUES:
            raise WingsError(f"{where}: has more than {_MOST_VALUES:,} values; check its aliases.")
        yield node
        if isinstance(node, yaml.MappingNode):
            waiting += [one for pair in reversed(node.value) for one in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += reversed(node.value)


def _unreadable(error: yaml.YAMLError, text: str, where: str) -> WingsError:
    place = ""
    reason = str(error)
    if isinstance(error, yaml.MarkedYAMLError):
        parts = [part for part in (error.context, error.problem) if part]
        # The place of a context is where something began, and of a problem where it broke.
        reason, mark = ", ".join(parts), error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    elif isinstance(error, yaml.reader.ReaderError):
        place = f"line {text.count(chr(10), 0, error.position) + 1}: "
        reason = f"the character {chr(error.character)!r} is not allowed"
    reason = " ".join(reason.split())[:200]
    remedy = next((r for part, r in _REMEDIES.items() if part in reason), "correct it")
    return WingsError(f"{where}: {place}not readable as YAML ({reason}); {remedy}.")
