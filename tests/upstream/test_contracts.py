"""The contracts of `wings/upstream`: each holds here, and each says its sentence when broken."""

import inspect
from types import SimpleNamespace

import pytest

from wings.upstream.contract import BrokenContract, Contract, Member, contracts

ALL = list(contracts())
NAMES = [f"{module}-{n}" for n, (module, _) in enumerate(ALL)]
MEMBERS = [
    pytest.param(contract, member, id=f"{module}:{Member(member).path.partition(':')[2]}")
    for module, contract in ALL
    for member in contract.members
]


@pytest.mark.parametrize("contract", [contract for _, contract in ALL], ids=NAMES)
def test_a_contract_holds(contract):
    # It is printed within a sentence.
    assert not contract.sentence.endswith(".")
    contract.verify()


def in_a_copy(monkeypatch, text, **changed):
    """Lets a member be looked for where only the members `changed` are."""
    _, name = Member(text).owner()
    copy = SimpleNamespace(**changed)
    owner = Member.owner
    path = Member(text).path
    monkeypatch.setattr(
        Member, "owner", lambda self: (copy, name) if self.path == path else owner(self)
    )


@pytest.mark.parametrize("contract, member", MEMBERS)
def test_a_member_that_is_gone_is_said(contract, member, monkeypatch):
    in_a_copy(monkeypatch, member)
    with pytest.raises(BrokenContract) as caught:
        contract.verify()
    assert contract.sentence in str(caught.value)
    assert f"{Member(member).path} is gone" in str(caught.value)


WITH_ARGUMENTS = [entry for entry in MEMBERS if Member(entry.values[1]).arguments]


@pytest.mark.parametrize("contract, member", WITH_ARGUMENTS)
def test_a_renamed_argument_is_said(contract, member, monkeypatch):
    held, name = Member(member).owner()
    signature = inspect.signature(getattr(held, name))
    for argument in Member(member).arguments:

        def renamed(*args, **kwargs):
            raise AssertionError("only its arguments are looked at")

        renamed.__signature__ = signature.replace(
            parameters=[
                parameter.replace(name="another") if parameter.name == argument else parameter
                for parameter in signature.parameters.values()
            ]
        )
        with monkeypatch.context() as patched:
            in_a_copy(patched, member, **{name: renamed})
            with pytest.raises(BrokenContract) as caught:
                contract.verify()
        assert contract.sentence in str(caught.value)
        assert f"takes no argument '{argument}'" in str(caught.value)


def test_a_failed_check_says_the_sentence_and_the_version():
    import transformers

    def check():
        raise AssertionError("rows are not repeated")

    contract = Contract("transformers", "5.17", "generate repeats rows", check=check)
    with pytest.raises(BrokenContract) as caught:
        contract.verify()
    for part in (transformers.__version__, "generate repeats rows", "rows are not repeated"):
        assert part in str(caught.value)


def broken_cache(monkeypatch):
    from transformers import GenerationMixin

    prepare = GenerationMixin._prepare_cache_for_generation
    monkeypatch.setattr(GenerationMixin, "_make_cache", prepare, raising=False)
    generate = inspect.unwrap(GenerationMixin.generate)

    def renamed(self, *args, **kwargs):
        own = type(self)._prepare_cache_for_generation
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(type(self), "_prepare_cache_for_generation", prepare)
            found = generate(self, *args, **kwargs)
        assert own is not prepare
        return found

    monkeypatch.setattr(GenerationMixin, "generate", renamed)


def broken_attention(monkeypatch):
    from transformers.models.llama import modeling_llama

    forward = modeling_llama.LlamaAttention.forward

    def drops_keywords(
        self, hidden_states, position_embeddings=None, attention_mask=None, **kwargs
    ):
        kwargs.pop("wings", None)
        return forward(self, hidden_states, position_embeddings, attention_mask, **kwargs)

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", drops_keywords)


def broken_marks(monkeypatch):
    from transformers import PreTrainedModel

    def draws_all(self):
        for parameter in self.parameters():
            parameter.data.normal_()

    monkeypatch.setattr(PreTrainedModel, "initialize_weights", draws_all)


def broken_crop(monkeypatch):
    from transformers.cache_utils import DynamicLayer

    monkeypatch.setattr(DynamicLayer, "crop", lambda self, tokens_to_remove: None)


def broken_trainer(monkeypatch):
    from transformers import Trainer

    training_step = Trainer.training_step
    monkeypatch.setattr(Trainer, "training_step", lambda *given: training_step(*given) * 0)


def broken_keys(monkeypatch):
    from transformers import PreTrainedConfig

    to_json_string = PreTrainedConfig.to_json_string

    def with_another_key(self, *args, **kwargs):
        text = to_json_string(self, *args, **kwargs)
        return text.replace("{", '{"unheard_of": 1, ', 1)

    monkeypatch.setattr(PreTrainedConfig, "to_json_string", with_another_key)


BEHAVIOURS = {
    "cache": ("generation", "is made by another member", broken_cache),
    "keywords": ("attention", "does not arrive", broken_attention),
    "marks": ("weights", "is drawn anew", broken_marks),
    "crop": ("cache_layers", "does not take one token away", broken_crop),
    "losses": ("trainer", "no loss or gradient yet", broken_trainer),
    "keys": ("configuration", "keys that nobody wrote", broken_keys),
}


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_a_changed_behaviour_is_said(behaviour, monkeypatch):
    module, fault, break_it = BEHAVIOURS[behaviour]
    break_it(monkeypatch)
    found = []
    for name, contract in ALL:
        if name == module and contract.check is not None:
            try:
                contract.verify()
            except BrokenContract as error:
                assert contract.sentence in str(error)
                found.append(str(error))
    assert any(fault in sentence for sentence in found), found
