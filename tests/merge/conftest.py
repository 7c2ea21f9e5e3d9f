"""A tiny language model, children of it in several forms, and a function that runs the command."""

import pytest
from merged import language_model, moved, save
from tiny import VISION

from wings.cli import main
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor


@pytest.fixture(scope="session")
def llm(tmp_path_factory):
    return save(tmp_path_factory.mktemp("llm"), language_model())


@pytest.fixture(scope="session")
def child(tmp_path_factory):
    """A language model that was trained from the LLM."""
    return save(tmp_path_factory.mktemp("child"), moved(language_model(), 1))


@pytest.fixture(scope="session")
def wings_child(llm, tmp_path_factory):
    """A Wings checkpoint whose language model was trained."""
    folder = tmp_path_factory.mktemp("wings")
    model = WingsForCausalLM.from_vision_text_pretrained(VISION, str(llm), rank=4)
    moved(model, 2).save_pretrained(folder)
    WingsProcessor.from_vision_text_pretrained(VISION, str(llm)).save_pretrained(folder)
    return folder


@pytest.fixture
def merge(tmp_path, capsys):
    """Runs `wings merge`; returns the folder and what was printed."""

    def run(*arguments, output="merged", code=0):
        folder = tmp_path / output
        # What saving the models printed.
        capsys.readouterr()
        found = main(["merge", *map(str, arguments), "--output", str(folder)])
        printed = capsys.readouterr()
        assert found == code, printed.err or printed.out
        if code == 0:
            return folder, printed.out
        assert printed.err.count("\n") == 1 and printed.err.endswith(".\n")
        return folder, printed.err

    return run
