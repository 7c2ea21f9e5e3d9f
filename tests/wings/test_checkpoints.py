"""Saving and loading: same logits, also from shards, a fresh process and a grown model."""

import json
import shutil

import interpreter
import pytest
import torch
from families import FAMILIES, VISION, Layouts, batch_of, build, text_config
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM

from wings import WingsConfig, WingsError, WingsForCausalLM
from wings.model.backbone import WingsModel

SAME = {"atol": 1e-6, "rtol": 1e-6}


def logits(model, batch):
    with torch.no_grad():
        return model(**batch, use_cache=False).logits


@pytest.mark.parametrize("family", list(FAMILIES))
def test_round_trip(family, tmp_path):
    model = build(family)
    batch, _ = batch_of(model, Layouts(3).rows(2))
    model.save_pretrained(tmp_path)
    again = WingsForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again, batch), logits(model, batch), **SAME)
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_shards_types_and_auto_classes(tmp_path):
    model = build("llama")
    batch, _ = batch_of(model, Layouts(3).rows(2))
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    for auto in (AutoModelForCausalLM, AutoModelForMultimodalLM):
        again = auto.from_pretrained(tmp_path)
        assert isinstance(again, WingsForCausalLM)
        torch.testing.assert_close(logits(again, batch), logits(model, batch), **SAME)
    half = WingsForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert logits(half, batch).isfinite().all()


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_the_auto_class_without_a_head_gives_the_hidden_states(family, tmp_path):
    model = build(family)
    batch, _ = batch_of(model, Layouts(3).rows(2))
    model.save_pretrained(tmp_path / "whole")
    bare = AutoModel.from_pretrained(tmp_path / "whole")
    assert type(bare) is WingsModel
    with torch.no_grad():
        expected = model.model(**batch).last_hidden_state
        assert torch.equal(bare(**batch).last_hidden_state, expected)
        bare.save_pretrained(tmp_path / "bare")
        again = AutoModel.from_pretrained(tmp_path / "bare")
        assert torch.equal(again(**batch).last_hidden_state, expected)
    with pytest.raises(WingsError, match=r"WingsModel .*'learners'"):
        AutoModel.from_pretrained(tmp_path / "whole", learners=("image",))
    if not model.config.tie_word_embeddings:
        with pytest.raises(WingsError, match=r"lacks lm_head\.weight"):
            WingsForCausalLM.from_pretrained(tmp_path / "bare")


def test_a_fresh_process_gives_the_same_logits(tmp_path):
    model = build("qwen3", router="modality")
    batch, _ = batch_of(model, Layouts(3).rows(2))
    model.save_pretrained(tmp_path / "model")
    torch.save(batch, tmp_path / "batch.pt")
    script = (
        "import sys, torch; from wings import WingsForCausalLM\n"
        "model = WingsForCausalLM.from_pretrained(sys.argv[1] + '/model')\n"
        "batch = torch.load(sys.argv[1] + '/batch.pt')\n"
        "with torch.no_grad(): out = model(**batch, use_cache=False)\n"
        "torch.save(out.logits, sys.argv[1] + '/logits.pt')\n"
    )
    done = interpreter.run(["-c", script, tmp_path], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), logits(model, batch), **SAME)


def test_offloaded_blocks_compute_the_same(tmp_path):
    pytest.importorskip("accelerate")
    model = build("llama")
    batch, _ = batch_of(model, Layouts(3).rows(2))
    model.save_pretrained(tmp_path / "model")
    placed = {"model.vision_tower": "cpu", "model.projector": "cpu", "lm_head": "cpu"}
    decoder = "model.language_model"
    placed |= {f"{decoder}.{part}": "cpu" for part in ("embed_tokens", "norm", "rotary_emb")}
    placed |= {f"{decoder}.layers.0": "cpu", f"{decoder}.layers.1": "disk"}
    split = WingsForCausalLM.from_pretrained(
        tmp_path / "model", device_map=placed, offload_folder=tmp_path / "disk"
    )
    torch.testing.assert_close(logits(split, batch), logits(model, batch), **SAME)


def test_stage_one_grows_into_stage_two(tmp_path):
    model = build("llama", learners=("image",), router=None)
    batch, _ = batch_of(model, Layouts(3).rows(2))
    model.save_pretrained(tmp_path)
    grown = WingsForCausalLM.from_pretrained(
        tmp_path, learners=("image", "text"), router="position"
    )
    assert grown.config.is_routed and set(grown.parameter_groups()) >= {"text_learners", "router"}
    image = {n: p for n, p in model.named_parameters() if ".image." in n}
    for name, parameter in image.items():
        assert torch.equal(dict(grown.named_parameters())[name], parameter)
    assert not any(p.any() for n, p in grown.named_parameters() if ".text.b_" in n)
    by_auto = AutoModelForCausalLM.from_pretrained(
        tmp_path, learners=["image", "text"], router="position"
    )
    assert by_auto.state_dict().keys() == grown.state_dict().keys()
    assert by_auto.config.is_routed
    grown.save_pretrained(tmp_path / "two")
    again = WingsForCausalLM.from_pretrained(tmp_path / "two")
    torch.testing.assert_close(logits(again, batch), logits(grown, batch), **SAME)


def test_a_plain_projector_model_grows_too(tmp_path):
    model = build("llama", learners=())
    batch, _ = batch_of(model, [["text", "image", "text"]])
    assert not any(".wings." in name for name in model.state_dict())
    model.save_pretrained(tmp_path)
    grown = WingsForCausalLM.from_pretrained(tmp_path, learners=("image",), router=None)
    torch.testing.assert_close(logits(grown, batch), logits(model, batch), **SAME)
    assert "image_learners" in grown.parameter_groups()


def test_missing_and_foreign_tensors_are_named(tmp_path):
    model = build("llama")
    model.save_pretrained(tmp_path / "whole")
    state = load_file(tmp_path / "whole" / "model.safetensors")
    name = "model.language_model.layers.0.self_attn.wings.image.a_q"

    def changed(edit):
        folder = tmp_path / "changed"
        shutil.copytree(tmp_path / "whole", folder, dirs_exist_ok=True)
        tensors = dict(state)
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    with pytest.raises(WingsError, match=r"lacks .*image\.a_q"):
        WingsForCausalLM.from_pretrained(changed(lambda t: t.pop(name)))
    with pytest.raises(WingsError, match=r"lacks model.projector.first.weight"):
        WingsForCausalLM.from_pretrained(changed(lambda t: t.pop("model.projector.first.weight")))
    with pytest.raises(WingsError, match=r"no parameter for.*model.extra"):
        WingsForCausalLM.from_pretrained(
            changed(lambda t: t.update({"model.extra": torch.ones(2)}))
        )


def test_other_models_are_refused(tmp_path):
    model = build("llama")
    model.extract_language_model().save_pretrained(tmp_path)
    with pytest.raises(WingsError, match=r"holds a 'llama' model.*from_vision_text_pretrained"):
        WingsForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(WingsError, match="no Wings checkpoint"):
        WingsForCausalLM.from_pretrained(tmp_path / "nowhere")


def test_unknown_keys_in_a_saved_config_are_named(tmp_path):
    build("llama").save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    fields["rnak"] = fields.pop("rank")
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(WingsError, match=r"'rnak'.*did you mean 'rank'"):
        WingsForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"rank": 33}, "rank is 33.*width 32"),
        ({"rank": 0}, "rank is 0"),
        ({"router": "positions"}, "router is 'positions'"),
        ({"learners": ("sound",)}, "learners"),
        ({"learner_layers": (0, 2)}, "block 2.*0 to 1"),
        ({"init_std": "big"}, "init_std is 'big'"),
        ({"projector": "linear"}, "projector is 'linear'"),
        ({"text_gaurd": True}, "'text_gaurd'.*did you mean 'text_guard'"),
        ({"image_seq_length": 5}, "image_seq_length is 5.*gives 4"),
    ],
)
def test_bad_values_are_refused_where_they_are_set(bad, said):
    with pytest.raises(WingsError, match=said):
        WingsForCausalLM(
            WingsConfig(text_config=text_config("llama"), vision_config=VISION, rank=4)
            if not bad
            else WingsConfig(
                **{"text_config": text_config("llama"), "vision_config": VISION, "rank": 4} | bad
            )
        )


def older_decoder(family):
    """A tiny decoder in an older style of modelling code, at least in some releases."""
    from transformers import AutoConfig

    from wings.model.inject import build_causal_lm

    names = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    if family in ("mpt", "codegen"):
        config = AutoConfig.for_model(family, vocab_size=96)
        names = {
            "mpt": ("d_model", "n_layers", "n_heads"),
            "codegen": ("n_embd", "n_layer", "n_head"),
        }[family]
        for name, value in zip(names, (32, 2, 4), strict=True):
            setattr(config, name, value)
        if family == "codegen":
            config.rotary_dim = 4
    else:
        names |= {"num_key_value_heads": 4} if family == "stablelm" else {}
        config = AutoConfig.for_model(family, vocab_size=96, intermediate_size=48, **names)
    config.bos_token_id = config.eos_token_id = 2
    return build_causal_lm(config)


@pytest.mark.parametrize("family", ["stablelm", "falcon", "bloom", "mpt"])
def test_decoders_that_cannot_carry_wings_are_refused(family):
    with pytest.raises(WingsError, match=r"choose|leave them out"):
        WingsForCausalLM.from_vision_text_pretrained(VISION, older_decoder(family), rank=4)


def test_a_family_carries_wings_once_it_uses_the_attention_interface():
    """CodeGen does since transformers 5.24; before, it is refused."""
    bare = older_decoder("codegen")
    if not bare.get_decoder().can_record_outputs.get("attentions"):
        with pytest.raises(WingsError, match="choose"):
            WingsForCausalLM.from_vision_text_pretrained(VISION, bare, rank=4)
        return
    model = WingsForCausalLM.from_vision_text_pretrained(VISION, bare, rank=4, router="modality")
    for name, parameter in model.named_parameters():
        if ".wings." in name:
            parameter.data.normal_(std=0.5)
    batch, _ = batch_of(model, [["text", "image", "text"], ["text"]])
    with torch.no_grad():
        whole = model(**batch).logits
    options = {"do_sample": False, "max_new_tokens": 4, "min_new_tokens": 4}
    cached = model.generate(**batch, **options)
    assert torch.equal(cached, model.generate(**batch, **options, use_cache=False))
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    last = int(batch["attention_mask"][0].sum()) - 1
    changed["input_ids"][0, last] = 5 if batch["input_ids"][0, last] != 5 else 6
    with torch.no_grad():
        after = model(**changed).logits
    torch.testing.assert_close(after[0, :last], whole[0, :last])
    assert not torch.equal(after[0, last], whole[0, last])


def test_a_loaded_language_model_keeps_its_weights():
    bare = build("llama").extract_language_model()
    before = {name: tensor.clone() for name, tensor in bare.state_dict().items()}
    model = WingsForCausalLM.from_vision_text_pretrained(VISION, bare, rank=4)
    after = model.extract_language_model().state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_the_image_token_may_have_a_small_id():
    bare = build("llama").extract_language_model()
    model = WingsForCausalLM.from_vision_text_pretrained(VISION, bare, rank=4, image_token_id=3)
    ids = torch.tensor([[5, 3, 3, 3, 3, 6]])
    assert model(input_ids=ids, pixel_values=torch.randn(1, 3, 16, 16)).logits.isfinite().all()


def test_unknown_options_are_refused():
    with pytest.raises(WingsError, match=r"'rankk'.*did you mean 'rank'"):
        WingsForCausalLM.from_vision_text_pretrained(VISION, "anything", rankk=4)


@pytest.mark.parametrize("router", ["position", "modality", "attended"])
def test_learners_on_some_blocks_only(router, tmp_path):
    model = build("llama", learner_layers=(1,), router=router)
    names = [name for name in model.state_dict() if ".wings." in name]
    assert names and all(".layers.1." in name for name in names)
    batch, _ = batch_of(model, Layouts(3).rows(2))
    model.save_pretrained(tmp_path)
    again = WingsForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again, batch), logits(model, batch), **SAME)
