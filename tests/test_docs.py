"""The guides are true: their code runs, their commands parse, their links and sentences hold.

Python blocks run in a folder made here, with the small models of the quickstart in the place of
those that would be downloaded (`STAND_INS`). Commands are parsed by the parsers that would run
them; nothing is trained. YAML blocks are read as parts of a recipe, or as a merge.
"""

import ast
import dataclasses
import importlib.util
import json
import re
import runpy
import shlex
import statistics
import sys
from pathlib import Path

import pytest
import setuptools
from audio_models import save_tiny_audio
from PIL import Image

from wings import WingsConfig, WingsForCausalLM, WingsProcessor
from wings.cli import build_parser
from wings.merge.recipe_file import merge_recipe
from wings.records.formats import to_messages
from wings.train import recipe as recipes
from wings.train.recipe import Recipe
from wings.train.recipe_file import find_recipe
from wings.train.recipe_values import override
from wings.train.recipe_yaml import read_yaml

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "train/README.md",
    "eval/README.md",
    "eval/iit.md",
    "kernels/README.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
]
ASSETS = ROOT / "examples" / "quickstart" / "assets"
# Names of the guides -> what stands for them: nothing is downloaded or uploaded.
STAND_INS = {
    "ViT-SO400M-14-SigLIP-384/webli": f"local-dir:{ASSETS / 'tower'}",
    "Qwen/Qwen2.5-0.5B-Instruct": str(ASSETS / "llm"),
    "ORG/my-wings": "hub/my-wings",
    "openai/whisper-base": "hub/whisper",
}
# Files that a reader brings, as the guides call them. Words in capitals are placeholders too.
READERS_OWN = {
    "t.jsonl", "p.jsonl", "c.jsonl", "h.txt", "conversations.jsonl", "instruct.yaml", "cat.jpg",
    "text.jsonl", "pictures.jsonl", "my-wings",
    # Those of docs/own-data.md, which tests/test_own_data.py runs.
    "align.yaml", "runs/instruct", "held/text.jsonl", "held/pictures.jsonl", "held/after.jsonl",
    "pictures/0.png",
    # Those of docs/senses.md.
    "s.jsonl", "clip.wav", "both", "a.wav", "walk.mp4",
}  # fmt: skip
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*(\.\w+)?(:\d+)?")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
# What an unfinished thought may be said with in a recipe: the rest of one that is whole.
BASE = {
    "stage": "instruct",
    "output": "runs/instruct",
    "start": "runs/align",
    "data": [{"path": "data.jsonl"}],
}


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(language):
    """(page, number of the block, its text) of all blocks in a language."""
    for page in PAGES:
        for n, (name, inner) in enumerate(BLOCK.findall(text_of(page))):
            if name == language:
                yield pytest.param(page, inner, id=f"{page}-{n}")


def inline(page):
    """What a page sets as code within its sentences, on one line each."""
    return [" ".join(code.split()) for code in INLINE.findall(BLOCK.sub("", text_of(page)))]


def test_every_block_has_a_language_that_is_tested():
    for page in PAGES:
        languages = {name for name, _ in BLOCK.findall(text_of(page))}
        assert languages <= {"python", "bash", "yaml", "json", ""}, page
        assert text_of(page).count("```") == 2 * len(BLOCK.findall(text_of(page))), page


@pytest.mark.parametrize(("page", "inner"), list(blocks("json")))
def test_records_of_a_block_are_read(page, inner):
    opened = []
    for line in inner.splitlines():
        turns = to_messages(json.loads(line), ".")
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2), page
        opened.append(any(part["type"] != "text" for part in turns[0]["content"]))
    # The last two on the page about one's own data are a text and a text after an image.
    assert all(opened) or (page == "docs/own-data.md" and opened == [True, True, False, True])


# Python -------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files that the guides read; the Hub is a folder in it."""
    monkeypatch.chdir(tmp_path)
    for kind in (WingsForCausalLM, WingsProcessor):
        monkeypatch.setattr(kind, "push_to_hub", lambda self, name: self.save_pretrained(name))
    Image.new("RGB", (40, 30), "orange").save("cat.jpg")
    save_tiny_audio("whisper", "hub/whisper")
    records = [(f"How much is {n} + 1?", str(n + 1)) for n in range(8)]
    write_records("text.jsonl", records)
    seen = [{"type": "image", "image": "cat.jpg"}, {"type": "text", "text": "Which colour?"}]
    write_records("pictures.jsonl", [(seen, "orange")] * 8)
    return tmp_path


def write_records(name, records):
    lines = []
    for question, answer in records:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": turns}) + "\n")
    Path(name).write_text("".join(lines))


def small_llm():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    llm = ASSETS / "llm"
    return AutoModelForCausalLM.from_pretrained(llm), AutoTokenizer.from_pretrained(llm)


# TRL sets by default what transformers 5.24 renamed.
@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6")
def test_python_runs(folder):
    """All blocks of a page run one after the other, in one namespace."""
    pages = {}
    for page, block in (case.values for case in blocks("python")):
        pages.setdefault(page, []).append(block)
    whole = "\n".join(block for found in pages.values() for block in found)
    assert all(f'"{name}"' in whole for name in STAND_INS), "a stand-in that no page needs"
    for page, found in pages.items():
        model, tokenizer = small_llm()
        space = {"model": model, "tokenizer": tokenizer}
        code = "\n".join(found)
        for name, other in STAND_INS.items():
            code = code.replace(f'"{name}"', repr(other))
        exec(compile(code, page, "exec"), space)
    assert (folder / "my-wings" / "config.json").is_file()
    assert (folder / "hub" / "my-wings" / "config.json").is_file()


# Shell --------------------------------------------------------------------------------------------


def commands(block):
    """The commands of a shell block as lists of words, without comments and continuations."""
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            # `...` stands for more of the same.
            yield [word for word in words[:end] if word != "..."]
            words = words[end + 1 :]


def harness_arguments(words):
    """The arguments that lm-evaluation-harness reads from the words of a command."""
    from lm_eval._cli import HarnessCLI

    with pytest.MonkeyPatch().context() as patch:
        patch.setattr(sys, "argv", ["lm_eval", *words])
        return HarnessCLI().parse_args()


class Shell:
    """Checks the commands of one page in their order; knows what those before have written."""

    def __init__(self):
        self.written = set()

    def check(self, words):
        program, *rest = words
        if program in ("python", "python3"):
            self.python(rest)
        elif program == "torchrun":
            self.torchrun(rest)
        elif program == "lm_eval":
            assert harness_arguments(rest).model == "hf-multimodal"
        elif program == "accelerate":
            self.accelerate(rest)
        elif program == "wings":
            self.wings(rest)
        elif program == "make":
            targets = re.findall(r"^(\w+):", text_of("Makefile"), re.MULTILINE)
            assert set(rest) <= set(targets), rest
        elif program == ".":
            self.file(rest[0])
        else:
            # Commands of others, which fetch something.
            known = [
                ["pre-commit", "install"], ["npm", "pack", "@iconify-json/twemoji"],
                ["hf", "auth", "login"], ["npm", "pack", "world-countries"],
                ["apt-get", "download", "tuxpaint-stamps-default"],
            ]  # fmt: skip
            is_unpacking = words[:2] in (["tar", "xzf"], ["dpkg-deb", "-x"])
            assert words in known or is_unpacking, f"no test of: {shlex.join(words)}"

    def python(self, words):
        if words[0] == "-m":
            self.module(words[1], words[2:])
        else:
            assert (ROOT / words[0]).is_file(), words

    def torchrun(self, words):
        from torch.distributed.run import get_args_parser

        given = get_args_parser().parse_args(words)
        assert given.module, "a script and no module"
        self.module(given.training_script, given.training_script_args)

    def accelerate(self, words):
        from accelerate.commands.launch import launch_command_parser

        assert words[0] == "launch"
        given = launch_command_parser().parse_args(words[1:])
        assert given.module, "a script and no module"
        self.module(given.training_script, given.training_script_args)

    def module(self, name, words):
        if name == "pip":
            self.pip(words)
        elif name == "venv":
            self.written |= set(words)
        elif name == "pytest":
            options = {word.partition("=")[0] for word in words if word.startswith("-")}
            assert options <= {"-n", "-q", "-m"} or "--fresh" in text_of("tests/conftest.py")
            assert all((ROOT / word).exists() for word in words if "/" in word)
        elif name == "wings.cli":
            self.wings(words)
        elif name == "wings.train":
            self.recipe(*self.split(words))
        elif name == "wings.eval.harness":
            self.harness(words)
        elif name == "wings.eval.benchmarks":
            from wings.eval.benchmarks.__main__ import READERS

            assert words[0] in {*READERS, "FORMAT"}
        else:
            assert name.startswith("wings."), f"no test of: python -m {name}"
            found = importlib.util.find_spec(name)
            assert found is not None, f"there is no module {name}"
            if found.submodule_search_locations is not None:
                assert importlib.util.find_spec(f"{name}.__main__") is not None, name
            if name == "wings.kernels.bench":
                from wings.kernels.bench.__main__ import parse

                parse(words)

    def pip(self, words):
        assert words[0] == "install"
        from_index = "--no-deps" in words
        for word in words[1:]:
            if word.startswith("-"):
                assert word in ("-e", "--no-deps"), word
            elif found := re.fullmatch(r"\.(?:\[(.+)\])?", word):
                extras = found[1].split(",") if found[1] else []
                assert set(extras) <= set(packaging()["extras_require"]), word
            else:
                assert from_index and word in text_of("setup.py"), word

    def harness(self, words):
        given = harness_arguments(words)
        assert given.model == "wings"
        self.tasks(given.tasks)

    def tasks(self, names):
        """Our tasks by their names; those of others are looked at by their own libraries."""
        for name in names:
            if name.startswith("wings_"):
                assert (ROOT / "eval" / "tasks" / f"{name}.yaml").is_file(), name

    def wings(self, words):
        given = build_parser().parse_args(words)
        if given.command in ("train", "plan", "data"):
            self.recipe(given.recipe, given.overrides)
        elif given.command == "quickstart":
            self.quickstart(given.output or "wings-quickstart")
        elif given.command in ("emoji", "speech"):
            self.written.add(str(given.folder))
        files = ["checkpoint", "against", "items", "text", "pictures", "conversations"]
        if given.command in ("push", "card"):
            files.append("folder")
        for name in files:
            for path in self.several(getattr(given, name, None)):
                self.file(path)
        if given.command == "eval":
            self.tasks(given.tasks)
        if given.command == "push":
            self.written.add(given.name)
        if getattr(given, "output", None) is not None:
            self.written.add(str(given.output))

    def several(self, value):
        if value is None:
            return []
        return [str(one) for one in (value if isinstance(value, list) else [value])]

    def quickstart(self, output):
        """The folders that it writes: the language model, and one for each of its methods."""
        from wings.examples.quickstart import methods

        keys = [method.key for method in methods.METHODS if method.default]
        self.written |= {f"{output}/llm", *(f"{output}/rows/{key}" for key in keys)}

    def file(self, name):
        known = name in READERS_OWN or PLACEHOLDER.fullmatch(name)
        inside = any(
            name == made or (name.startswith(f"{made}/") and made != "wings-quickstart")
            for made in self.written
        )
        assert known or inside or (ROOT / name).exists(), f"{name} is not made before"

    def split(self, words):
        return words[0], words[1:]

    def recipe(self, name, overrides):
        if PLACEHOLDER.fullmatch(name):
            return
        file = find_recipe(name)
        if file.is_file():
            Recipe.from_yaml(file, overrides)
        else:
            self.file(name)
            read_fragment({}, overrides)


def packaging():
    """The arguments with which setup.py calls setuptools."""
    given = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", given.update)
        patch.chdir(ROOT)
        runpy.run_path("setup.py")
    return given


@pytest.mark.parametrize("page", PAGES)
def test_commands_parse(page):
    shell = Shell()
    if page != "README.md":
        # The guides are read after the README, which begins with the quickstart.
        shell.quickstart("wings-quickstart")
    for name, block in BLOCK.findall(text_of(page)):
        if name == "bash":
            for words in commands(block):
                shell.check(words)


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_sentences_exist(page):
    """`wings eval --tasks` is no whole command, so its command and its options are looked up."""
    parsers = build_parser()._subparsers._group_actions[0].choices
    for code in inline(page):
        words = code.split()
        if words[0] == "wings" and len(words) > 1 and words[1].isalpha():
            assert words[1] in parsers, code
            known = set(parsers[words[1]]._option_string_actions)
            if words[1] == "data":
                inner = parsers["data"]._subparsers._group_actions[0].choices
                assert words[2] in inner, code
                known = set(inner[words[2]]._option_string_actions)
            options = [word.partition("=")[0] for word in words if word.startswith("--")]
            assert set(options) <= known, code
        elif words[:2] in (["python", "-m"], ["python3", "-m"]) and words[2].startswith("wings."):
            Shell().module(words[2], [word for word in words[3:] if word != "..."])
        elif words[0] == "make" and len(words) == 2:
            Shell().check(words)


# YAML ---------------------------------------------------------------------------------------------


def read_fragment(fragment, overrides=()):
    values = {**BASE, **fragment}
    if "model" in fragment:
        # A fresh model, instead of a start.
        values["start"] = fragment.get("start")
    for text in overrides:
        override(values, text)
    return Recipe.from_dict(values)


@pytest.mark.parametrize(("page", "block"), [*blocks("yaml")])
def test_yaml_is_a_part_of_a_recipe(page, block):
    fragment = read_yaml(block, page)
    assert fragment
    if page == "docs/merge.md":
        assert merge_recipe(fragment).children
    else:
        read_fragment(fragment)


def test_keys_within_sentences_are_keys_of_a_recipe():
    """In the training guide `key: value` is a part of a recipe, and `key=value` an override."""
    kinds = [kind for kind in vars(recipes).values() if dataclasses.is_dataclass(kind)]
    known = {field.name for kind in [*kinds, WingsConfig] for field in dataclasses.fields(kind)}
    top = {field.name for field in dataclasses.fields(Recipe)}
    for code in inline("train/README.md"):
        if re.fullmatch(r"[a-z_]+: .+", code):
            fragment = read_yaml(code, code)
            assert set(fragment) <= known, code
            if set(fragment) <= top:
                lacking = {"freeze_llm": True} if set(fragment) & {"kl_to_base"} else {}
                read_fragment({**lacking, **fragment})
        elif re.fullmatch(r"[a-z_.]+=\S+( [a-z_.]+=\S+)*", code) and code != "key=value":
            read_fragment({}, code.split())


# Links, names, sentences --------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in LINK.findall(text_of(page)):
        if not target.startswith(("http://", "https://", "#")):
            assert ((ROOT / page).parent / target.partition("#")[0]).exists(), target


def test_files_that_are_named_exist():
    """`file.py` anywhere, or `room/file.py` from the root or from the folder of the page."""
    names = {path.name for path in ROOT.rglob("*.py")}
    for page in PAGES:
        for code in inline(page):
            if re.fullmatch(r"[\w./-]+\.py", code):
                base = (ROOT / page).parent
                found = code in names or (ROOT / code).exists() or (base / code).exists()
                assert found, f"{page} names {code}"


def test_the_tree_of_the_readme_is_that_of_the_repository():
    (tree,) = [inner for name, inner in BLOCK.findall(text_of("README.md")) if not name]
    named = set(re.findall(r"(\w+)/ ", tree))
    assert named == {"wings", "kernels", "train", "eval", "examples", "tests", "docs"}
    rooms = re.search(r"^wings/ (.*): the model", tree, re.MULTILINE)[1].split()
    rooms += [*re.findall(r"(\w+):", tree.splitlines()[0])[1:], "cli"]
    here = {path.parent.name for path in (ROOT / "wings").glob("*/*.py")}
    assert set(rooms) >= here - {"kernels", "train", "eval", "examples"}


def sentences(text):
    """The sentences of a page without code, tables, lists of links and what links lead to."""
    text = BLOCK.sub("\n\n", text)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    for paragraph in re.split(r"\n\s*\n|\n(?=\* |\d+\. |- )", text):
        if not paragraph.startswith(("#", "|", "    ", "`")) or paragraph.startswith("`w"):
            line = " ".join(paragraph.split())
            yield from (one for one in re.split(r"(?<=[.!?:])\s+(?=[A-Z`*(])", line) if one)


def lengths(page):
    return sorted(len(one.split()) for one in sentences(text_of(page)))


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/costs.md",
        "docs/merge.md",
        "docs/own-data.md",
        "docs/serve.md",
        "docs/share.md",
        "train/README.md",
        "eval/README.md",
        "kernels/README.md",
    ],
)
def test_sentences_are_short(page):
    found = lengths(page)
    assert len(found) > 10
    assert statistics.median(found) <= 20, page
    assert statistics.quantiles(found, n=10)[-1] <= 32, page


# Rows of the README's table -> rows of the experiment's page.
EXPERIMENT = {
    "guarded LoRA": "guarded LoRA, both stages, attended gate",
    "image learner": "image learner, both stages, attended gate",
}


def cells(page, first, columns):
    """The cells of a row by its first one, of the one table with these columns that has it."""
    tables = re.split(r"\n\n+", text_of(page))
    found = []
    for table in tables:
        if table.startswith("|") and columns in table:
            lines = [line.strip("|").split("|") for line in table.splitlines()]
            rows = [[cell.strip() for cell in line] for line in lines]
            found += [row[1:] for row in rows if row[0] == first]
    (row,) = found
    return row


@pytest.mark.parametrize("name", EXPERIMENT)
def test_the_readme_has_the_experiments_numbers(name):
    results = "eval/results/stages/README.md"
    shown = cells("README.md", name, "same answers after an image")
    row = cells(results, EXPERIMENT[name], "KL alone")
    pictures, after, same = (row[n].partition(" ")[0] for n in range(3))
    assert shown == [pictures, after, same, f"{float(row[5]):.2f}", row[-1]]


def test_the_readme_says_which_seeds_are_in():
    page, readme = text_of("eval/results/stages/README.md"), text_of("README.md")
    assert ("**Not finished**" in page) != ("means of three seeds" in readme)
    found = re.search(r"paired difference in pictures is (\S+) \((\S+ to \S+)\) points", page)
    difference, interval = found.groups()
    assert f"difference is {difference} points ({interval})" in readme
    low, high = (float(end) for end in interval.split(" to "))
    assert ("**Neither answers more images**" in readme) == (low < 0 < high)


# A docstring opens with a noun or a verb.
OPENINGS = ("What", "Whether", "Of", "How", "Where")


def test_docstrings_open_with_a_noun_or_a_verb():
    wrong = []
    for room in ("wings", "kernels", "train", "eval", "examples"):
        for path in sorted((ROOT / room).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if any(parent.is_symlink() for parent in path.parents):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                    words = (ast.get_docstring(node) or "-").split()
                    if words[0] in OPENINGS:
                        wrong.append(f"{name}: {' '.join(words[:8])}")
    assert not wrong, "\n".join(wrong)


# Columns of docs/costs.md -> variants of the bench.
COSTS = ("wings", "image, 1 of 3", "LLaVA", "cross-attention")


def test_the_page_of_costs_has_the_numbers_of_the_bench():
    rows = json.loads(text_of("kernels/results/epyc/bench.json"))["rows"]
    ratios = {(r["what"], r["length"], r["variant"], r["shape"]): r["ratio"] for r in rows}
    lines = [line for line in text_of("docs/costs.md").splitlines() if " tokens | " in line]
    assert len(lines) == 8
    for line in lines:
        what, *shown = (cell.strip() for cell in line.strip("|").split("|"))
        name, _, length = what.removesuffix(" tokens").rpartition(", ")
        place = name, int(length.replace(",", ""))
        for variant, cell in zip(COSTS, shown, strict=False):
            found = [
                f"{ratios[(*place, variant, shape)]:.2f}" for shape in ("D 576, ungrouped", "D 576")
            ]
            assert cell == ", ".join(found), (what, variant)
