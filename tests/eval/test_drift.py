"""Drift of models whose distributions are known, against sums that are written out."""

import math

import pytest
import torch

from wings.errors import WingsError
from wings.eval import drift
from wings.eval.documents import Document
from wings.eval.drift import batch_by_tokens, batch_sums, measure_drift
from wings.eval.models import tokenizer_difference

TEXTS = ["a b c d a a", "l k j i h g f e d c b a a b", "b a", "c c c c c"]


def documents(texts=TEXTS):
    return [Document(f"text {n}", text) for n, text in enumerate(texts)]


def written_out(text, tokenizer, before, after, asked=None):
    """(tokens, KL, loss before, loss after) by the definitions, in float64."""
    ids = tokenizer(text).input_ids
    p, q = before.double().log_softmax(-1), after.double().log_softmax(-1)
    tokens, kl, lost, loses = 0, 0.0, 0.0, 0.0
    for n in range(1, len(ids)):
        if asked is None or asked[n]:
            here, comes = ids[n - 1], ids[n]
            kl += sum(math.exp(p[here, v]) * (p[here, v] - q[here, v]) for v in range(p.shape[1]))
            tokens, lost, loses = tokens + 1, lost - p[here, comes], loses - q[here, comes]
    return [tokens, float(kl), float(lost), float(loses)]


def test_kl_and_losses_of_known_chains(chain, winged, make_runner):
    llm, before = chain(1, "a")
    model, after = winged(2, "b")
    found = measure_drift(llm, model, documents(), make_runner())
    expected = [written_out(text, llm.tokenizer, before, after) for text in TEXTS]
    got = [[d.tokens, d.kl, d.before, d.after] for d in found.documents]
    torch.testing.assert_close(torch.tensor(got), torch.tensor(expected), rtol=1e-4, atol=1e-4)
    tokens, kl, lost, loses = map(sum, zip(*expected, strict=True))
    assert found.kl.value == pytest.approx(kl / tokens, rel=1e-4)
    assert found.kl.low < found.kl.value < found.kl.high
    assert found.perplexity_ratio.value == pytest.approx(math.exp((loses - lost) / tokens), 1e-4)
    assert found.perplexities[0] == pytest.approx(math.exp(lost / tokens), 1e-4)
    assert [document["name"] for document in found.to_dict()["documents"]][-1] == "text 3"


def test_a_model_has_not_drifted_from_itself(chain, winged, make_runner):
    llm, model = chain(1, "a")[0], winged(1, "a")[0]
    found = measure_drift(llm, model, documents(), make_runner())
    assert found.kl.to_dict() == {"value": 0.0, "interval": [0.0, 0.0]}
    assert found.perplexity_ratio.to_dict() == {"value": 1.0, "interval": [1.0, 1.0]}


def test_of_a_conversation_the_answers_count(chain, make_runner):
    (llm, before), (model, after) = chain(1, "a"), chain(2, "b")
    turns = [("user", "c d"), ("assistant", "a e"), ("user", "f"), ("assistant", "g")]
    messages = tuple({"role": role, "content": text} for role, text in turns)
    text = "<user> c d <end> <bot> a e <end> <user> f <end> <bot> g <end>"
    asked = [False] * 5 + [True] * 3 + [False] * 4 + [True] * 2
    assert len(text.split()) == len(asked)
    (found,) = measure_drift(
        llm, model, [Document("talk", messages=messages)], make_runner()
    ).documents
    expected = written_out(text, llm.tokenizer, before, after, asked)
    assert [found.tokens, found.kl, found.before] == pytest.approx(expected[:3], rel=1e-4)


def random_models(winged):
    """Two Wings models that do attend: every weight has moved."""
    subjects = [winged(1, "a")[0], winged(2, "b")[0]]
    with torch.no_grad():
        for n, subject in enumerate(subjects):
            generator = torch.Generator().manual_seed(n)
            for parameter in subject.model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return [subject.model for subject in subjects]


def test_positions_are_read_a_few_at_a_time(winged):
    llm, model = random_models(winged)
    ids = torch.randint(4, 16, (3, 21), generator=torch.Generator().manual_seed(0))
    mask, asked = torch.ones_like(ids), torch.ones_like(ids)
    mask[1, 15:] = asked[1, 15:] = 0
    asked[2, 3:9] = 0
    whole = batch_sums(llm, model, ids, mask, asked)
    sizes = []
    for head in (llm.lm_head, model.lm_head):
        head.register_forward_hook(lambda _, __, out: sizes.append(out.numel()))
    numbers = 4 * 3 * 16
    for limit, positions in ((numbers, 4), (1, 1)):
        sizes.clear()
        parts = batch_sums(llm, model, ids, mask, asked, max_logits=limit)
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
        assert max(sizes) == positions * 3 * 16 and sum(sizes) == 2 * 20 * 3 * 16
    assert whole[:, 0].tolist() == [20, 14, 14]
    alone = batch_sums(llm, model, ids[1:2, :15], mask[1:2, :15], asked[1:2, :15])
    torch.testing.assert_close(alone[0], whole[1], rtol=1e-5, atol=1e-5)


def test_a_token_without_a_chance_adds_nothing(chain):
    (llm, _), (model, _) = chain(1, "a"), chain(2, "b")
    for subject in (llm, model):
        subject.model.lm_head.register_forward_hook(lambda _, __, out: out.index_fill(
            -1, torch.tensor([15]), -math.inf))  # fmt: skip
    ids = torch.tensor([[4, 5, 6, 7]])
    sums = batch_sums(llm.model, model.model, ids, torch.ones_like(ids), torch.ones_like(ids))
    assert sums.isfinite().all()


def test_long_documents_are_cut_and_keep_their_weight(chain, make_runner, monkeypatch):
    (llm, before), (model, after) = chain(1, "a"), chain(2, "b")
    long = " ".join("abcdefghijkl"[n * n % 12] for n in range(150))
    (found,) = measure_drift(llm, model, documents([long]), make_runner()).documents
    # 64 positions are known, so three pieces, of each of which the first token is not predicted.
    pieces = [" ".join(long.split()[start : start + 64]) for start in (0, 64, 128)]
    rows = [written_out(piece, llm.tokenizer, before, after) for piece in pieces]
    expected = [sum(column) for column in zip(*rows, strict=True)]
    assert [found.tokens, found.kl] == pytest.approx(expected[:2], rel=1e-4)
    assert found.tokens == 147
    monkeypatch.setattr(drift, "BATCH", 10)
    assert batch_by_tokens([3, 9, 2, 3, 20]) == [[2, 0, 3], [1], [4]]


def test_what_cannot_be_compared_is_a_sentence(chain, make_runner):
    llm, model = chain(1, "a")[0], chain(2, "b")[0]
    with pytest.raises(WingsError, match="text 0 is too short"):
        measure_drift(llm, model, documents(["a"]), make_runner())
    with torch.no_grad():
        model.model.lm_head.weight.fill_(math.nan)
    with pytest.raises(WingsError, match=r"text 0 .* are not finite"):
        measure_drift(llm, model, documents(), make_runner())


def test_tokenizers_agree_but_for_the_image_token(chain, winged):
    one, other = chain(1, "a")[0].tokenizer, winged(2, "b")[0].tokenizer
    assert tokenizer_difference(one, other) is None
    # What the LLM alone has would reach the model as an id of something else.
    assert tokenizer_difference(other, one) == "'<image>' is token 16 of one and none of the other"
    other.add_tokens(["ab"])
    assert tokenizer_difference(one, other) is None
    swapped = chain(1, "a")[0].tokenizer
    swapped._tokenizer.model = type(swapped._tokenizer.model)(
        {(["a", "b"][::-1])[n - 4] if 4 <= n < 6 else w: n for w, n in one.get_vocab().items()},
        unk_token="<pad>",
    )
    assert "of one and" in tokenizer_difference(one, swapped)
