"""Learners alone on the Hub: language model and revision are found by what the folder names."""

from pathlib import Path

from interpreter import run

STEPS = """
import sys, torch
from huggingface_hub import HfApi
sys.path.insert(0, sys.argv[1])
from tiny import TEXT, VISION
from transformers import LlamaConfig, LlamaForCausalLM
from wings import WingsError, WingsForCausalLM

api = HfApi()
def upload(name, folder):
    api.create_repo(name, exist_ok=True, private=True)
    api.upload_folder(repo_id=name, folder_path=folder)

llm = LlamaForCausalLM(LlamaConfig(**TEXT))
llm.save_pretrained("llm")
upload("anna/llm", "llm")
model = WingsForCausalLM.from_vision_text_pretrained(VISION, "anna/llm", rank=4)
part = model.config.wings_base["text"]
assert part == {"name": "anna/llm", "revision": api.model_info("anna/llm").sha}, part
model.save_pretrained("learners", learners_only=True)
upload("anna/learners", "learners")
# Another language model on the main branch; the first stays under its commit.
llm.lm_head.weight.data[0, 0] += 1
llm.save_pretrained("llm")
upload("anna/llm", "llm")
again = WingsForCausalLM.from_pretrained("anna/learners", revision="main")
state = model.state_dict()
assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
try:
    WingsForCausalLM.from_pretrained("anna/learners", text="anna/llm")
except WingsError as error:
    assert "'anna/llm' (revision " + part["revision"] in str(error), error
    print(error)
"""


HELPERS = Path(__file__).parents[1] / "helpers"


def test_learners_find_their_language_model_in_its_revision(hub, home, tmp_path):
    environment = hub.environment(home / ".cache", HOME=str(home))
    done = run(["-c", STEPS, str(HELPERS)], environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "belong to the language model" in done.stdout and done.stdout.count("\n") == 1
    assert set(hub.repositories) == {"anna/llm", "anna/learners"}
