"""peft: LoRA on the LLM, with learners and projector trained in full, saved, loaded and merged."""

import pytest
import torch

from wings import WingsForCausalLM, WingsProcessor

peft = pytest.importorskip("peft", reason="peft is not installed")

# peft calls what transformers 5.24 renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6")


@pytest.fixture(scope="module")
def batch(tiny_folder, pictures):
    processor = WingsProcessor.from_pretrained(tiny_folder)
    rows = []
    for picture, answer in zip(pictures, ("red", "blue"), strict=True):
        content = [{"type": "image", "image": picture}, {"type": "text", "text": "which?"}]
        turns = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        rows.append(processor.encode(turns))
    return processor.pad(rows)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"], ids=str)
def test_an_adapter_is_trained_saved_loaded_and_merged(targets, batch, tiny_folder, tmp_path):
    model = WingsForCausalLM.from_pretrained(tiny_folder)
    with torch.no_grad():
        fresh = model(**batch).logits
    torch.manual_seed(0)
    adapted = peft.get_peft_model(
        model,
        peft.LoraConfig(
            target_modules=targets, modules_to_save=["wings", "projector"], task_type="CAUSAL_LM"
        ),
    )
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "modules_to_save" in name for name in trained)
    assert any("wings" in name for name in trained) and any("projector" in n for n in trained)
    # `all-linear` leaves the learners' own factors alone.
    assert not any("lora_" in name and ".wings." in name for name in trained)
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
    losses = []
    for _ in range(3):
        loss = adapted(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    adapted.eval()
    with torch.no_grad():
        want = adapted(**batch).logits
        assert not want.equal(fresh)
        with adapted.disable_adapter():
            assert adapted(**batch).logits == pytest.approx(fresh, abs=1e-6)
    adapted.save_pretrained(tmp_path / "adapter")

    loaded = peft.PeftModel.from_pretrained(
        WingsForCausalLM.from_pretrained(tiny_folder), tmp_path / "adapter"
    ).eval()
    automatic = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    with torch.no_grad():
        assert loaded(**batch).logits == pytest.approx(want, abs=1e-5)
        assert automatic(**batch).logits == pytest.approx(want, abs=1e-5)
    merged = loaded.merge_and_unload()
    assert type(merged) is WingsForCausalLM
    merged.save_pretrained(tmp_path / "merged")
    again = WingsForCausalLM.from_pretrained(tmp_path / "merged").eval()
    prompt = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with torch.no_grad():
        assert again(**batch).logits == pytest.approx(want, abs=1e-5)
        answers = [
            one.generate(**prompt, max_new_tokens=4, do_sample=False) for one in (adapted, again)
        ]
    assert answers[0].equal(answers[1])
