"""The start: what the command line and `import wings` load, and that Auto classes know Wings."""

import json
import subprocess
import sys
from pathlib import Path

import interpreter
import pytest
from tiny import tiny_model

ROOT = Path(__file__).parents[1]
HEAVY = {
    "torch", "transformers", "open_clip", "timm", "torchvision", "triton", "matplotlib", "rich",
    "numpy",
}  # fmt: skip
ONLY_WITH_A_TOWER = {"open_clip", "timm", "torchvision", "triton"}
# Python itself loads about 150; torch alone is more than a thousand.
MOST = 300

COMMAND_LINE = """
import contextlib, io, json, sys
from wings.cli import main
said = io.StringIO()
try:
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print(json.dumps([code, said.getvalue(), sorted(sys.modules)]))
"""
LOADED = "import json, sys; print(json.dumps(sorted(sys.modules)))"


def run(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return reported(subprocess.run(command, cwd=ROOT, capture_output=True, text=True))


def run_after_torch(code, *arguments):
    """The same with torch imported before."""
    return reported(interpreter.run(["-c", code, *arguments], cwd=ROOT))


def reported(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--help"], 0, "quickstart"),
        (["--version"], 0, "wings "),
        (["train", "--help"], 0, "key=value"),
        (["trian"], 2, "invalid choice: 'trian'"),
        (["chat"], 2, "required: checkpoint"),
        (["plan", "recipe", "--gpus", "many"], 2, "many is not a whole number from 1"),
    ],
    ids=["help", "version", "help of a command", "mistyped", "missing", "bad argument"],
)
def test_the_command_line_answers_without_heavy_libraries(arguments, code, says):
    got, said, loaded = run(COMMAND_LINE, *arguments)
    assert got == code and says in said
    assert not HEAVY & set(loaded)
    assert len(loaded) < MOST


def test_import_loads_neither_torch_nor_transformers():
    loaded = run(f"import wings; {LOADED}")
    assert "wings" in loaded and not HEAVY & set(loaded)
    assert len(loaded) < MOST


def test_parts_load_no_tower_library():
    """transformers' own base class of models imports torchvision and triton where it finds them."""
    config, before, loaded = run(
        "import json, sys, wings\n"
        "wings.WingsConfig; config = sorted(sys.modules)\n"
        "from transformers import GenerationMixin, PreTrainedModel, ProcessorMixin\n"
        "before = sorted(sys.modules)\n"
        "wings.WingsForCausalLM, wings.WingsProcessor\n"
        "print(json.dumps([config, before, sorted(sys.modules)]))"
    )
    assert "wings.config" in config and not ONLY_WITH_A_TOWER & set(config)
    assert not any(name.startswith("wings.model.") for name in before)
    assert {"wings.model.causal_lm", "wings.processing.processor"} <= set(loaded)
    assert not {"open_clip", "timm"} & set(loaded)
    assert not (ONLY_WITH_A_TOWER & set(loaded)) - set(before)


def test_names_are_listed_and_wrong_ones_refused():
    import wings

    assert {*wings.__all__, "__version__"} <= set(dir(wings))
    for name in wings.__all__:
        assert getattr(wings, name) is not None
    with pytest.raises(AttributeError, match="WingsForSpeech"):
        wings.WingsForSpeech  # noqa: B018


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model, processor = tiny_model()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


LOAD = """
import json, sys
import transformers
if sys.argv[2] == "wings last":
    names = [getattr(transformers, name) for name in sys.argv[3:]]
    import wings
kinds = [type(getattr(transformers, name).from_pretrained(sys.argv[1])) for name in sys.argv[3:]]
finders = [one for one in sys.meta_path if type(one).__module__.startswith("wings")]
print(json.dumps([[f"{kind.__module__}.{kind.__name__}" for kind in kinds], len(finders)]))
"""
CLASSES = {
    "AutoConfig": "wings.config.WingsConfig",
    "AutoModel": "wings.model.backbone.WingsModel",
    "AutoModelForCausalLM": "wings.model.causal_lm.WingsForCausalLM",
    "AutoModelForImageTextToText": "wings.model.causal_lm.WingsForCausalLM",
    "AutoModelForMultimodalLM": "wings.model.causal_lm.WingsForCausalLM",
    "AutoImageProcessor": "wings.processing.image_processor.WingsImageProcessor",
    "AutoProcessor": "wings.processing.processor.WingsProcessor",
}


@pytest.mark.parametrize("name", ["AutoModelForCausalLM", "AutoImageProcessor", "AutoProcessor"])
def test_an_auto_class_used_first_after_wings_knows_it(name, checkpoint):
    kinds, _ = run_after_torch(f"import wings\n{LOAD}", checkpoint, "wings first", name)
    assert kinds == [CLASSES[name]]


@pytest.mark.parametrize("order", ["wings first", "wings last"])
def test_all_auto_classes_know_wings_in_either_order(order, checkpoint):
    begin = "import wings\n" if order == "wings first" else ""
    kinds, finders = run_after_torch(begin + LOAD, checkpoint, order, *CLASSES)
    assert kinds == list(CLASSES.values())
    assert not finders, "the finder stays when there is nothing left to register"


@pytest.mark.parametrize(
    "first",
    [
        # Modules that import a part of transformers' Auto classes while they are half executed.
        "from wings.config import WingsConfig",
        "import wings; from transformers import GenerationMixin",
        "import wings; import open_clip",
    ],
)
def test_auto_classes_know_wings_whatever_was_imported_first(first, checkpoint):
    kinds, _ = run_after_torch(
        f"{first}\n{LOAD}", checkpoint, "wings first", "AutoModelForImageTextToText"
    )
    assert kinds == [CLASSES["AutoModelForImageTextToText"]]


def test_a_watched_module_keeps_its_own_loader():
    """`python -m`, inspect and importlib.resources ask a module's loader for more than to run."""
    code = (
        "import json, wings, wings.errors, importlib.util, transformers.utils as utils\n"
        "name = 'wings.processing.tokenization'\n"
        "found = importlib.util.find_spec(name).loader.get_source(name)\n"
        "own = [type(m.__loader__).__name__ for m in (wings.errors, utils)]\n"
        "specs = [type(m.__spec__.loader).__name__ for m in (wings.errors, utils)]\n"
        "print(json.dumps([own, specs, 'def tokenize' in found]))"
    )
    names = ["SourceFileLoader"] * 2
    assert run_after_torch(code) == [names, names, True]
