"""Models that hear: questions about sounds, text after a sound, their report, and refusals."""

import json
from dataclasses import replace

import pytest
import torch
from videos import make_video

from wings import WingsForCausalLM
from wings.cli import main
from wings.cli.compare import compare
from wings.cli.eval_files import DEFAULT_FILES, able_files
from wings.errors import WingsError
from wings.eval.compare.card_plot import card_plot
from wings.eval.compare.clusters import cluster_items
from wings.eval.data import EvalData, EvalFiles, read_data
from wings.eval.documents import read_documents
from wings.eval.evaluation import evaluate
from wings.eval.fingerprint import item_fingerprint, model_fingerprint
from wings.eval.gates.gate_curve import measure_curve
from wings.eval.gates.gate_plot import curve_figure
from wings.eval.gates.gate_setting import all_settings, has_gate, validate_can_be_gated
from wings.eval.generate import answer_items, batch_by_length
from wings.eval.iit import build_iit, write_iit
from wings.eval.items import Item, read_items, write_items
from wings.eval.loglikelihood import choice_likelihoods
from wings.eval.models import extract_llm
from wings.eval.report.report import Report
from wings.eval.sense_drift import measure_sense_drift
from wings.eval.senses import HEARD
from wings.layers.wings_layer import WingsLayer
from wings.sharing.retention import read_retention

ENCODED = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}


def part(kind, source):
    return {"type": kind, kind: source}


def asked(kind, text, answer, *sources, **more):
    content = [*sources, {"type": "text", "text": text}]
    return Item(kind, ({"role": "user", "content": content},), answer, **more)


def talk(*sources, kind="mixed", question="h", answer="a"):
    first = asked(kind, "f g", "b", *sources).messages[0]
    turns = (first, {"role": "assistant", "content": "b"}, {"role": "user", "content": question})
    return Item(kind, turns, answer)


def awake(model):
    """The same model with other weights, so that sounds and their learners matter."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.model.named_parameters():
            if "embed_tokens" in name:
                weight.div_(300)
            elif "encoder" not in name and "vision" not in name:
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return replace(model, fingerprint=model_fingerprint(model.model, model.processor))


def test_answers_and_likelihoods_are_those_of_the_sound(hearing, sound):
    model = awake(hearing(1, "a", image=None))
    first, second = (part("audio", sound(name)) for name in ("one.wav", "other.flac"))
    choices = ("a", "b c", "d")
    items = [asked("k", "e", "a", one, choices=choices) for one in (first, second)]
    items.append(replace(items[0], messages=({"role": "user", "content": "e"},)))
    found = choice_likelihoods(model.model, model.processor, items, batch_size=4)
    for item, likelihoods in zip(items, found, strict=True):
        prompt = model.processor.apply_chat_template(
            [list(item.messages)], add_generation_prompt=True, **ENCODED
        )
        for choice, one in zip(choices, likelihoods, strict=True):
            ids = torch.tensor([model.tokenizer(choice).input_ids])
            inputs = {**prompt, "input_ids": torch.cat([prompt["input_ids"], ids], 1)}
            del inputs["attention_mask"]
            logs = model.model(**inputs).logits[0].log_softmax(-1)
            rows = logs[-1 - ids.shape[1] : -1].gather(1, ids[0][:, None])
            assert one.total == pytest.approx(rows.sum().item(), abs=1e-4)
    totals = [[one.total for one in row] for row in found]
    assert totals[0] != totals[1] and totals[0] != totals[2]
    answers = answer_items(model.model, model.processor, items, max_new_tokens=4)
    for item, answer in zip(items, answers, strict=True):
        prompt = model.processor.apply_chat_template(
            [list(item.messages)], add_generation_prompt=True, **ENCODED
        )
        out = model.model.generate(**prompt, max_new_tokens=4, do_sample=False)
        ids = out[0, prompt["input_ids"].shape[1] :]
        assert answer == model.tokenizer.decode(ids, skip_special_tokens=True)
    # Rows of different senses are in different batches.
    assert batch_by_length(items, 8) == [[2], [0, 1]]


@pytest.fixture
def data(picture, sound):
    seen, heard = part("image", picture), part("audio", sound("a.wav"))
    return EvalData(
        text=[asked("k", letter, "a") for letter in "cd"],
        pictures=[asked("shapes", "f", "b", seen)],
        conversations=[talk(heard), talk(seen), talk(seen, heard, kind="both"), talk(heard)],
        sounds=[asked("words", "f", "b", heard), asked("words", "g", "b", heard, seen)],
    )


def test_each_sense_has_its_figures_and_its_verdict(chain, hearing, make_runner, data):
    llm, model = chain(1, "a")[0], hearing(2, "b")
    found = evaluate(llm, model, data, make_runner())
    assert found.notes == []
    assert list(found.measurements) == [
        "text", "pictures", "sounds", "conversations", "after_image", "conversations_audio",
        "after_audio", "conversations_image_audio", "after_image_audio", "attention",
        "attention_audio", "attention_image_audio", "drift_after_image", "drift_after_audio",
        "drift_after_image_audio",
    ]  # fmt: skip
    figures = found.to_dict()
    assert figures["sounds"]["kinds"]["words"]["difference"]["value"] == 100.0
    # Both questions play one sound.
    assert figures["sounds"]["kinds"]["words"]["clusters"] == 1
    for name, count in (("conversations_audio", 2), ("conversations_image_audio", 1)):
        (kind,) = figures[name]["kinds"].values()
        assert kind["before"]["total"] == count and kind["lost"] == count
    kinds = figures["drift_after_audio"]["kinds"]["mixed"]
    assert list(kinds) == ["alone", "floor", "audio", "above_floor", "tokens", "clusters"]
    assert {"alone", "words", "audio"} <= figures["drift_after_audio"]["answers"][0].keys()
    masses = figures["attention_image_audio"]["model"]["branches"]["main"]["masses"]
    assert list(masses) == ["sink", "before", "image", "audio", "between", "after"]
    assert all(sum(column) == pytest.approx(1) for column in zip(*masses.values(), strict=True))
    assert min(masses["audio"]) > 0 < min(masses["image"])
    assert [line.partition(":")[0] for line in found.verdict] == [
        "Text alone", "Text after an image", "Text after a sound",
        "Text after an image and a sound", "Images", "Sounds",
    ]  # fmt: skip
    assert found.verdict[-1] == (
        "Sounds: 100.0% (21-100) right, the LLM without the sounds 0.0% (0-79): +100.0 points."
    )
    titles = [section.title for section in found.sections]
    assert "Text after a sound and alone" in titles and "Attention shift around a sound" in titles
    page = Report("t", {}, [], found.sections, found.samples, verdict=found.verdict).html()
    assert page.count('<audio controls src="data:audio/wav;base64,') == 2 + 2 + 1
    assert "share an image, a sound or a cluster" in found.measurements["sounds"].section().sentence
    json.dumps(figures)


def test_what_a_model_lacks_is_left_out_with_a_note(chain, hearing, winged, make_runner, data):
    llm = chain(1, "a")[0]
    for model, lacks, kept in (
        (hearing(2, "b", image=None), "pictures", {"conversations_audio"}),
        (winged(2, "b")[0], "sounds", {"pictures", "conversations"}),
    ):
        found = evaluate(llm, model, replace(data, text=()), make_runner())
        named = {"pictures", "sounds", "conversations", "conversations_audio",
                 "conversations_image_audio"}  # fmt: skip
        assert named & found.measurements.keys() == kept
        assert all(f"is a 'wings' model, which takes no {lacks}." in one for one in found.notes)
        assert len(found.notes) == len(named) - len(kept)


def test_the_drift_after_a_sound_has_the_floor_after_words(hearing, make_runner, sound):
    model = awake(hearing(1, "a", image=None))
    llm, one = extract_llm(model), talk(part("audio", sound("a.wav")), answer="a b")
    found = measure_sense_drift(llm, model, [one], make_runner(), HEARD).answers[0]

    def log_probs(subject, batch):
        return subject.model(**batch).logits[0, -4:-1, :16].double().log_softmax(-1)

    def written(text):
        return {"input_ids": torch.tensor([llm.tokenizer(text).input_ids])}

    alone = "<user> h <end> <bot> a b <end>"
    expected = log_probs(llm, written(alone))
    floor = log_probs(llm, written(f"<user> f g <end> <bot> b <end> {alone}"))
    messages = [*one.messages, {"role": "assistant", "content": "a b"}]
    after = log_probs(model, model.processor.apply_chat_template([messages], **ENCODED))
    kl = [(expected.exp() * (expected - other)).sum().item() for other in (floor, after)]
    # Without a sound the guarded model is its LLM.
    assert found.alone == 0
    assert [found.words, found.after] == pytest.approx(kl, rel=1e-4) and kl[0] != kl[1]


def test_results_are_cached_by_the_bytes_of_sounds_and_by_the_encoder(hearing, sound, tmp_path):
    one = asked("k", "e", "a", part("audio", sound("a.wav")))
    before = item_fingerprint(one)
    (tmp_path / "b.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    assert item_fingerprint(asked("k", "e", "a", part("audio", str(tmp_path / "b.wav")))) == before
    sound("a.wav", seconds=0.5)
    assert item_fingerprint(one) != before
    data = (tmp_path / "b.wav").read_bytes()
    (tmp_path / "c.jsonl").write_text(json.dumps(record("<audio>e", "a", audio="b.wav")))
    (read,) = read_items(tmp_path / "c.jsonl")
    assert item_fingerprint(read) == before
    write_items(tmp_path / "d.jsonl", [read])
    assert read_items(tmp_path / "d.jsonl") == [read]
    assert item_fingerprint(asked("k", "e", "a", part("audio", data))) != before  # samples
    (tmp_path / "b.wav").unlink()
    with pytest.raises(WingsError, match=r"The sound .*b\.wav cannot be read"):
        item_fingerprint(read)
    model = hearing(1, "a", image=None)
    encoder = model.model.model.encoder(model.model.config.senses["audio"])
    with torch.no_grad():
        next(encoder.parameters())[0] += 1
    assert model_fingerprint(model.model, model.processor) != model.fingerprint


def test_items_of_one_sound_are_one_cluster(sound):
    one, other = (part("audio", sound(name)) for name in ("a.wav", "b.wav"))
    items = [asked("k", "c", "a", one), asked("k", "d", "a", other), asked("k", "e", "a", one)]
    assert cluster_items(items) == [0, 1, 0]


def test_a_report_shows_frames_of_a_video(chain, hearing, make_runner, tmp_path):
    make_video(path=tmp_path / "a.mp4")
    one = asked("k", "e", "b", part("video", str(tmp_path / "a.mp4")))
    found = evaluate(chain(1, "a")[0], hearing(2, "b"), EvalData(pictures=[one]), make_runner())
    page = Report("t", {}, [], found.sections, found.samples).html()
    assert page.count('<img alt="picture') == 4


def record(text, answer, **more):
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **more}


@pytest.mark.parametrize(
    ("kind", "wrong", "said"),
    [
        ("text", record("<audio>a", "b", audio="a.wav"), "has a sound; pass the file as --sounds"),
        ("pictures", record("<audio>a", "b", audio="a.wav"), "no picture; .* as --sounds"),
        ("sounds", record("<image>a", "b", image="red.png"), "no sound; .* as --pictures"),
        ("sounds", record("a", "b"), "no sound; pass the file as --text"),
        ("conversations", record("a", "b"), "no picture or sound; pass the file as --text"),
        ("conversations", record("<audio>a", "b", audio="gone.wav"), "folder of the sounds with"),
        ("held_out", record("<audio>a", "b", audio="a.wav"), "a sound, which held-out text"),
        ("held_out", {"text": "b", "audio": "a.wav"}, "a sound, which held-out text"),
    ],
)  # fmt: skip
def test_a_wrong_record_is_a_sentence(write, picture, sound, kind, wrong, said):
    sound("a.wav")
    path = write("wrong.jsonl", wrong)
    with pytest.raises(WingsError, match=said) as error:
        read_data(EvalFiles(**{kind: [path]}))
    assert "wrong.jsonl" in str(error.value)


def test_files_are_read_and_digests_do_not_name_folders(write, picture, sound, tmp_path):
    sound("a.wav")
    both = record("<image><audio>a", "b", audio="a.wav", image="red.png")
    files = EvalFiles(sounds=[write("s.jsonl", both)], conversations=[write("c.jsonl", both)])
    data = read_data(files)
    assert len(data.sounds) == len(data.conversations) == 1
    assert list(data.digests()) == ["sounds", "conversations"]
    assert files.to_dict()["sounds"] == [str(tmp_path / "s.jsonl")]
    assert "sounds" not in EvalFiles(text=files.sounds).to_dict()
    assert not read_documents([write("t.jsonl", {"text": "b", "audio": None})])[0].messages


def test_a_sense_that_a_checkpoint_lacks_is_refused_before_weights(
    hearing, winged, write, picture, sound, tmp_path, capsys
):
    sound("a.wav")
    llm = tmp_path / "llm"
    extract_llm(winged(1, "a")[0]).model.save_pretrained(llm)
    models = {"hears": hearing(1, "a", image=None), "sees": winged(1, "a")[0]}
    for name, model in models.items():
        model.model.config.save_pretrained(tmp_path / name)
    capsys.readouterr()
    heard = write("s.jsonl", record("<audio>a", "b", audio="a.wav"))
    seen = write("p.jsonl", record("<image>a", "b", image="red.png"))
    for name, option, file, said in (
        ("sees", "--sounds", heard, "--sounds has sounds, but {} does not hear: it takes pictures"),
        ("sees", "--conversations", heard, "--conversations has sounds, but {} does not hear"),
        ("hears", "--pictures", seen, "--pictures has pictures, but {} does not see: it takes so"),
    ):
        checkpoint = tmp_path / name
        arguments = ["eval", checkpoint, "--against", llm, option, file, "--output", tmp_path / "o"]
        assert main([str(one) for one in arguments]) == 2
        error = capsys.readouterr().err
        assert said.format(checkpoint) in error and error.count("\n") == 1


def test_a_gate_on_sounds_leaves_images_alone(hearing, make_runner, picture, sound):
    subject = awake(hearing(2, "b"))
    model, heard = subject.model, part("audio", sound("a.wav"))
    settings = all_settings(has_gate(model, "audio"), (8.0, 0.5), (0.2,), "audio")
    assert [one.gate for one in settings[:3]] == ["saved", "none", "off"] and len(settings) == 6
    image = model.config.router
    batch = subject.processor.apply_chat_template(
        [talk(part("image", picture)).messages], add_generation_prompt=True, **ENCODED
    )
    before = model(**batch).logits
    text, questions = [talk(heard), talk(heard, question="c")], [asked("w", "f", "b", heard)]
    curve = measure_curve(subject, text, questions, settings, make_runner(), 2.0)
    document = curve.to_dict()
    assert {"keep_sounds", "sound_floor"} < document.keys() and len(curve.results) == 6
    assert {"text_after_audio", "sounds"} < document["results"][0].keys()
    # The last setting is still on.
    fields = model.config.senses["audio"]
    assert (fields.router, fields.gate_shape, model.config.router) == ("attended", "hill", image)
    routers = [layer.router_of(fields) for layer in wings_layers(model)]
    assert all(v == pytest.approx(0.2) for one in routers for v in one.values().values())
    assert torch.equal(model(**batch).logits, before)
    validate_can_be_gated("it", model, "audio")
    curve_figure(curve, "t")


def wings_layers(model):
    return [module for module in model.modules() if isinstance(module, WingsLayer)]


def test_gates_of_one_sense_are_set_alone(hearing):
    model = hearing(1, "a").model
    model.reconfigure(router="attended", gate_shape="hill")
    model.set_gate(gain=3.0, sense="audio")
    model.set_gate(tau=0.3, sense="image")
    layer, senses = wings_layers(model)[0], model.config.senses
    found = {name: layer.router_of(sense).values() for name, sense in senses.items()}
    assert found["audio"] == pytest.approx({"audio": 3.0, "text": 3.0})
    assert found["image"] == pytest.approx({"image": 0.3, "text": 0.3})
    for given, said in (
        ({"gain": 1.0}, "different shapes: set those of one sense at a time"),
        ({"gain": 1.0, "sense": "image"}, "shape 'hill' has a tau"),
        ({"tau": 1.0, "sense": "touch"}, "no sense 'touch'; it has image, audio"),
    ):
        with pytest.raises(WingsError, match=said):
            model.set_gate(**given)


def test_gates_that_no_sense_can_have_are_refused(
    hearing, winged, write, picture, sound, tmp_path, capsys
):
    for name, model in (("hears", hearing(1, "a", image=None)), ("sees", winged(1, "a")[0])):
        model.model.config.save_pretrained(tmp_path / name)
    sound("a.wav")
    heard = str(write("s.jsonl", record("<audio>a", "b", audio="a.wav")))
    seen = str(write("p.jsonl", record("<image>a", "b", image="red.png")))
    capsys.readouterr()
    for name, options, said in (
        ("hears", [], "does not see, so there is no gate on pictures to choose: give --sounds and"),
        ("sees", ["--sounds", heard, "--conversations", heard], "sees does not hear: it takes"),
        ("sees", ["--sounds", heard, "--pictures", seen], "A gate is of one sense"),
        ("sees", ["--sounds", heard], "A gate is chosen on both"),
        ("hears", ["--sounds", heard, "--conversations", seen], "hears does not see"),
        ("sees", ["--pictures", seen, "--conversations", heard], "sees does not hear"),
    ):
        arguments = ["gate", str(tmp_path / name), *options, "--report", str(tmp_path / "out")]
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error


def test_conversations_interleave_text_and_sounds(write, sound, tmp_path):
    sound("a.wav")
    texts = [record(letter, "b", kind="t") for letter in "abcde"]
    heard = record("<audio>a", "b", audio="a.wav")
    items, sounds = (read_items(write(f"{n}.jsonl", *r)) for n, r in enumerate([texts, [heard]]))

    def embed(texts):
        return torch.eye(len(texts), dtype=torch.float64)

    built = build_iit(items, sounds, embed, size=1)
    assert built[-1].turns == (("sounds", 0),)
    (tmp_path / "out").mkdir()
    write_iit([one for one in built if one.kind.endswith("V")], tmp_path / "out" / "sounds.jsonl")
    again = read_items(tmp_path / "out" / "sounds.jsonl")
    # The path is relative to the new file, and finds the same sound.
    assert [item_fingerprint(one) for one in again] == [
        item_fingerprint(one.item) for one in built if one.kind.endswith("V")
    ]
    both = read_items(write("b.jsonl", record("<image><audio>a", "b", image="c", audio="a.wav")))
    with pytest.raises(WingsError, match="Item 0 of pictures has a sound; move it to a file of"):
        build_iit(items, both, embed)


def test_reports_of_both_senses_share_a_table(chain, hearing, make_runner, data, tmp_path, capsys):
    folders = []
    less = replace(data, pictures=(), sounds=data.sounds[:1], conversations=data.conversations[:1])
    for name, options, given in (("both", {}, data), ("hears", {"image": None}, less)):
        model = hearing(2, "b", **options)
        found = evaluate(chain(1, "a")[0], model, given, make_runner())
        document = {"inputs": {"against": "a", "files": {}, "questions": {}}, "seeds": {}}
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        (folders[-1] / "report.json").write_text(
            json.dumps({**document, "measurements": found.to_dict()})
        )
    _, both, hears = compare(folders, tmp_path / "plot.png")
    assert {"attention_audio", "attention_image_audio"} < both.shifts.keys()
    assert both.accuracies["sounds"].percent == 100 and "pictures" not in hears.accuracies
    assert both.point(HEARD).after == both.accuracies["conversations_audio"]
    said = " ".join(capsys.readouterr().out.split())
    assert "hears was not measured on: pictures, text after an image, text after an image" in said
    assert (tmp_path / "plot.png").is_file()
    report = json.loads((folders[0] / "report.json").read_text())
    assert card_plot(report).startswith(b"\x89PNG")
    rows = {row.key: row.title for row in read_retention(report).rows}
    assert rows["after_audio"] == "Text after a sound"
    assert rows["sounds"] == "Sounds (the LLM does not hear them)"


def test_the_command_measures_a_model_that_hears_and_goes_on(
    hearing, write, sound, tmp_path, monkeypatch
):
    model = hearing(1, "a", image=None)
    model.model.config.llm_trained = False
    for part in (model.model, model.processor):
        part.save_pretrained(tmp_path / "hears")
    sound("a.wav")
    turns = [*record("<audio>f", "b")["messages"], *record("c", "a")["messages"]]
    after = write("c.jsonl", {"messages": turns, "audio": "a.wav"})
    heard = write("s.jsonl", record("<audio>e", "a", audio="a.wav"))
    arguments = ["eval", tmp_path / "hears", "--sounds", heard, "--conversations", after]
    arguments = [str(one) for one in [*arguments, "--output", tmp_path / "out"]]
    assert main(arguments) == 0
    report = (tmp_path / "out" / "report.json").read_text()
    found = json.loads(report)["measurements"]
    assert list(found) == [
        "sounds", "conversations_audio", "after_audio", "attention_audio", "drift_after_audio",
    ]  # fmt: skip
    # Without learners that act, nothing is lost, alone or after a sound.
    assert found["after_audio"]["kinds"]["all"]["after"]["model"]["right"] == 1
    monkeypatch.setattr(WingsForCausalLM, "generate", None)
    assert main(arguments) == 0
    again = json.loads((tmp_path / "out" / "report.json").read_text())
    assert again["measurements"] == found


def test_without_files_a_model_is_asked_what_it_has_senses_for(hearing, winged, tmp_path, capsys):
    made = tmp_path / "data"
    made.mkdir()
    text = [made / name for name in DEFAULT_FILES]
    files = EvalFiles(text[:1], text[1:2], text[2:], held_out=text[:1])
    for name, model, parts in (
        ("sees", winged(1, "a")[0], (1, 0, 1)), ("hears", hearing(1, "a", image=None), (0, 0, 0)),
        ("both", hearing(1, "a"), (1, 0, 1)),
    ):  # fmt: skip
        model.model.config.save_pretrained(tmp_path / name)
        able, note = able_files(files, str(tmp_path / name))
        assert (len(able.pictures), len(able.sounds), len(able.conversations)) == parts
        assert len(able.text) == 1 == len(able.held_out)
        assert bool(note) == (name != "sees")
    for name in ("sounds", "text_after_sound", "text_after_both"):
        (made / f"{name}_held_out.jsonl").touch()
    for name, parts in (("sees", (0, 1)), ("hears", (1, 1)), ("both", (1, 3))):
        able, note = able_files(files, str(tmp_path / name))
        assert (len(able.sounds), len(able.conversations)) == parts and not note
