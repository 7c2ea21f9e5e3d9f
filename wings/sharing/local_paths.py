"""Takes paths of the own machine out of what is shared; names on the Hub stay."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from wings.errors import WingsError

# Keys that name where a model came from; a Hub id stays, a folder means nothing elsewhere.
SOURCES = ("_name_or_path", "name_or_path")
# Entry of config.json that names the parts which a checkpoint of learners lacks.
BASE_KEY = "wings_base"
# Chat templates and tokens have slashes of their own, and changing one changes the model.
UNTOUCHED = ("chat_template", "added_tokens_decoder", "extra_special_tokens")
SCHEME = r"(?:file://|local-dir:)?"
# A text that is one path: absolute, from the home folder, from a drive, or out of its folder.
WHOLE = re.compile(rf"{SCHEME}(?:/[^/]+/|~[^/]*/|[A-Za-z]:[\\/]|\.\.?/).*", re.DOTALL)
# Absolute paths within a sentence; a URL has a letter, a colon or a slash before its slashes.
INSIDE = re.compile(r"(?<![\w:/.<~])(?:~[\w.-]*)?/(?:[^\s'\"`,;:<>|()\[\]{}/]+/)+[\w.@+-]*")
HUB_CACHE = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})")


def is_local(text: str) -> bool:
    """True if a text as a whole is a path of this machine, and no name on the Hub."""
    if "\n" in text or not text:
        return False
    return WHOLE.fullmatch(text) is not None or (text.count("/") == 1 and Path(text).is_dir())


def last_name(path: str) -> str:
    """The last part of a path: `captions.jsonl` of `/home/anna/captions.jsonl`.

    A snapshot in the Hub's cache becomes the id that it is of.
    """
    if found := HUB_CACHE.search(path):
        return f"{found[1]}/{found[2]}"
    scheme = "local-dir:" if path.startswith("local-dir:") else ""
    return scheme + (re.split(r"[\\/:]", path.rstrip("\\/"))[-1] or "folder")


def in_sentence(text: str) -> str:
    """A sentence whose absolute paths are cut to their last names."""
    home = str(Path.home())
    if len(home) > 1:
        # It may have a space, at which a path within a sentence ends.
        text = text.replace(f"{home}/", "~/")
    return INSIDE.sub(lambda found: last_name(found[0]), text)


def strip_value(value: Any, sentences: bool = False) -> Any:
    """JSON values without local paths.

    Args:
        value: dicts, lists, texts and numbers.
        sentences: also cut paths within texts, as in reports; a text that is one path always is.
    """
    if isinstance(value, dict):
        return {
            key: one if key in UNTOUCHED else _stripped(key, one, sentences)
            for key, one in value.items()
            if not (key in SOURCES and is_unnamed(one))
        }
    if isinstance(value, list):
        return [strip_value(one, sentences) for one in value]
    if not isinstance(value, str):
        return value
    if is_local(value):
        return last_name(value)
    return in_sentence(value) if sentences else value


def _stripped(key: str, value: Any, sentences: bool) -> Any:
    if key == BASE_KEY and isinstance(value, dict):
        # Loading would look for a folder of that name.
        value = {
            part: {k: one for k, one in fields.items() if not (k == "name" and is_unnamed(one))}
            for part, fields in value.items()
            if isinstance(fields, dict)
        }
    return strip_value(value, sentences)


def is_unnamed(source: Any) -> bool:
    """True for a source that says nothing to others: a folder that is no snapshot of the Hub."""
    if not isinstance(source, str):
        return False
    if HUB_CACHE.search(source):
        return False
    return is_local(source) or source.startswith("local-dir:")


def strip_json(text: str, sentences: bool = False) -> str:
    """JSON text without local paths; the text itself if there are none."""
    value = json.loads(text)
    stripped = strip_value(value, sentences)
    if stripped == value:
        return text
    return json.dumps(stripped, indent=2, ensure_ascii=False) + "\n"


def strip_yaml(text: str) -> str:
    """YAML text without local paths; all other scalars keep their spelling."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None:
        return text
    changed = False
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            plain = last_name(node.value) if is_local(node.value) else in_sentence(node.value)
            changed |= plain != node.value
            node.value = plain
        elif isinstance(node, yaml.MappingNode):
            waiting.extend(value for _, value in node.value)
        else:
            waiting.extend(node.value)
    return yaml.serialize(root, allow_unicode=True) if changed else text


def validate_without_home(name: str, content: bytes) -> None:
    """Raises a `WingsError` if a file that is shared as it is names the home folder."""
    home = str(Path.home())
    found = re.search(re.escape(home).encode() + rb"(?![\w.-])", content)
    if found is not None and len(home) > 1:
        line = content.count(b"\n", 0, found.start()) + 1
        raise WingsError(
            f"{name} names the home folder {home} in line {line}, and is shared as it is: take that"
            f" path out."
        )
