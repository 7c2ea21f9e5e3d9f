"""`wings serve` and `transformers serve` answer as `model.generate` does."""

import json
import signal
import socket
import threading
import urllib.error
import urllib.request

import pytest
from served import ROOT, Program, answer, data_uri, free_port, huge_png, png

from wings.cli import main

openai = pytest.importorskip("openai", reason="needs wings-lorra[serve]")
pytest.importorskip("fastapi", reason="needs wings-lorra[serve]")

RED, BLUE = data_uri(png("red")), data_uri(png("blue"))
LENGTH = 8


@pytest.fixture(scope="module")
def served(checkpoint):
    program = Program("serve", str(checkpoint[0]), "--name", "tiny-wings")
    yield program
    if program.process.poll() is None:
        program.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def image(address):
    return {"type": "image_url", "image_url": {"url": address}}


def user(*parts):
    texts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": "user", "content": texts}


CHATS = {
    "text": [user("1+1?")],
    "string": [{"role": "user", "content": "1+1?"}],
    "image": [user(image(RED), "Which colour?")],
    "history": [
        user(image(RED), "Which colour?"),
        {"role": "assistant", "content": "red"},
        user("And this?", image(BLUE)),
    ],
}


def expected(checkpoint, messages, length=LENGTH):
    """`model.generate`'s answer to messages in OpenAI's form."""
    _, model, processor = checkpoint
    ours = [
        {
            **message,
            "content": message["content"]
            if isinstance(message["content"], str)
            else [
                {"type": "image", "image": part["image_url"]["url"]}
                if part["type"] == "image_url"
                else part
                for part in message["content"]
            ],
        }
        for message in messages
    ]
    return answer(model, processor, ours, length)


def ask(client, messages, **options):
    options = {"model": "tiny-wings", "max_tokens": LENGTH, **options}
    return client.chat.completions.create(messages=messages, **options)


@pytest.mark.parametrize("chat", CHATS)
def test_an_answer_is_that_of_generate(chat, client, checkpoint):
    found = ask(client, CHATS[chat])
    assert found.choices[0].message.content == expected(checkpoint, CHATS[chat])
    assert found.model == "tiny-wings" and found.usage.completion_tokens <= LENGTH


def test_images_make_a_difference(checkpoint):
    assert expected(checkpoint, [user(image(RED), "?")]) != expected(checkpoint, [user("?")])


@pytest.mark.parametrize("chat", ["text", "image"])
def test_a_stream_has_the_same_answer_in_pieces(chat, client, checkpoint):
    pieces = [chunk.choices[0].delta.content for chunk in ask(client, CHATS[chat], stream=True)]
    pieces = [piece for piece in pieces if piece]
    assert len(pieces) > 1 and "".join(pieces) == expected(checkpoint, CHATS[chat])


@pytest.mark.parametrize("stream", [False, True])
def test_the_responses_api_answers_too(stream, client, checkpoint):
    content = [
        {"type": "input_image", "image_url": RED},
        {"type": "input_text", "text": "Which colour?"},
    ]
    options = {"model": "tiny-wings", "input": [{"role": "user", "content": content}]}
    found = client.responses.create(**options, max_output_tokens=LENGTH, stream=stream)
    if stream:
        events = list(found)
        text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    else:
        text = found.output_text
    assert text == expected(checkpoint, CHATS["image"])


def test_a_stop_string_ends_an_answer(client, checkpoint):
    whole = expected(checkpoint, CHATS["image"])
    stop = whole[1]
    found = ask(client, CHATS["image"], stop=[stop]).choices[0]
    assert found.message.content == whole[: whole.index(stop) + 1] != whole
    assert found.finish_reason == "stop"


def test_requests_at_the_same_time_do_not_meet(client, checkpoint):
    answers = {}

    def work(number, chat):
        answers[number, chat] = ask(client, CHATS[chat]).choices[0].message.content

    threads = [
        threading.Thread(target=work, args=(number, chat))
        for number in range(3)
        for chat in ("text", "image", "history")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 9
    assert all(text == expected(checkpoint, CHATS[chat]) for (_, chat), text in answers.items())


def test_the_pages_example_runs(served, tmp_path, monkeypatch, capsys, checkpoint):
    page = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    (code,) = [block for block in page.split("```\n") if "from openai" in block]
    code = code.replace("http://127.0.0.1:8000", served.url).replace('"my-wings"', '"tiny-wings"')
    (tmp_path / "cat.jpg").write_bytes(png("red"))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/serve.md", "exec"), {})
    chat = [user(image(RED), "What is this?")]
    assert capsys.readouterr().out == expected(checkpoint, chat, 1024)


REFUSED = {
    "a file of this machine": ([user(image("/etc/hostname"))], "opens no files"),
    "a file as a URL": ([user(image("file:///etc/hostname"))], "opens no files"),
    "an address of this machine": ([user(image("http://127.0.0.1:1/a.png"))], "private network"),
    "a URL without a network": ([user(image("https://image.invalid/a.png"))], "image.invalid"),
    "no image": ([user(image(data_uri(b"no image")))], "not a whole, readable image"),
    "a sound": ([user({"type": "input_audio", "input_audio": {}})], "does not hear"),
    "an unknown part": ([user({"type": "smell", "smell": "a"})], "parts of the types text"),
    "nothing": ([user()], "no content"),
    "an unknown role": ([{"role": "usr", "content": "a"}], "did you mean 'user'"),
    "no list": ("Hello", "is no list"),
    "no messages": ([], "no 'messages'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_request_gets_a_sentence(case, client, served):
    messages, words = REFUSED[case]
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, messages)
    sentence = caught.value.body["message"]
    assert words in sentence and sentence.endswith(".") and "\n" not in sentence
    assert "Traceback" not in served.errors


def test_a_very_large_image_is_refused_before_it_is_decoded(client):
    with pytest.raises(openai.BadRequestError, match="pixels"):
        ask(client, [user(image(data_uri(huge_png())))])


def test_another_model_is_refused_and_the_one_is_listed(client, served):
    with pytest.raises(openai.BadRequestError, match="tiny-wings"):
        ask(client, CHATS["text"], model="another")
    assert [model.id for model in client.models.list()] == ["tiny-wings"]
    with urllib.request.urlopen(f"{served.url}/health") as found:
        assert json.load(found) == {"status": "ok"}


@pytest.mark.parametrize("body", [b"{", b"[]", b""])
def test_a_request_that_is_no_json_is_a_sentence(body, served):
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{served.url}/v1/chat/completions", body, headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(asked)
    assert caught.value.code == 400
    assert "no JSON object" in json.load(caught.value)["error"]["message"]


def test_an_option_that_cannot_be_read_is_a_wrong_request(client):
    with pytest.raises(openai.BadRequestError, match="cannot be answered"):
        ask(client, CHATS["text"], max_tokens="many")


def test_a_signal_ends_the_server_in_the_middle_of_an_answer(served, client, checkpoint):
    # The last test of this server.
    stream = ask(client, CHATS["image"], stream=True, max_tokens=100_000, logit_bias={"1": -100.0})
    pieces = iter(stream)
    next(pieces), next(pieces)
    assert served.end(signal.SIGTERM) == 0
    assert "Traceback" not in served.errors and "terminate" not in served.errors
    rest = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
    assert len(rest) < 100_000


def refusal(arguments, capsys):
    assert main(["serve", *arguments]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("wings serve: ") and said.err.count("\n") == 1 and not said.out
    return said.err


def test_a_port_that_is_taken_is_refused_before_the_model_loads(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        sentence = refusal(["nowhere", "--port", str(port)], capsys)
    assert f"Port {port} of 127.0.0.1" in sentence and "--port" in sentence


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{llm}"], "not a Wings checkpoint"),
        (["{folder}", "--device", "cuda:77"], "--device"),
        (["{folder}", "--device", "abacus"], "abacus"),
        (["{folder}", "--host", "no.such.host.invalid"], "--host"),
    ],
)
def test_what_cannot_be_served_is_a_sentence(arguments, words, checkpoint, tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    names = {"llm": str(tmp_path), "folder": str(checkpoint[0])}
    given = [word.format(**names) for word in arguments]
    assert words in refusal([*given, "--port", "0"], capsys)


@pytest.mark.parametrize("chat", ["text", "image"])
@pytest.mark.parametrize("stream", [False, True])
def test_transformers_serve_answers_for_a_folder(chat, stream, plain, checkpoint):
    found = ask(plain, CHATS[chat], model=str(checkpoint[0]), stream=stream)
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in found)
    else:
        text = found.choices[0].message.content
    assert text == expected(checkpoint, CHATS[chat])


@pytest.fixture(scope="module")
def plain(checkpoint):
    """A client of transformers' own server, in this process."""
    from transformers.cli.serve import Serve

    port = free_port()
    server = Serve(force_model=str(checkpoint[0]), port=port, device="cpu", non_blocking=True)
    address = f"http://localhost:{port}/v1"
    with openai.OpenAI(base_url=address, api_key="none", max_retries=8) as client:
        yield client
    server.kill_server()
