"""Descriptions by a language model, against a real server on loopback that also fails, stalls and answers nonsense."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipeline.captioners import NoCaption
from pipeline.captioners.endpoint import Endpoint, retry_after
from pipeline.captioners.llm import Descriptions, LlmCaptioner, ask_descriptions, read_descriptions
from pipeline.captioners.llm_answers import Cache, Pace, Question, Unusable, tidy
from pipeline.captioners.local_llm import LocalModel
from schemas.config import Llm
from schemas.errors import UserError

KEY = "sk-very-secret-0123456789"
CLASSES = ["Holding [something]", "tai_chi"]


class Server(ThreadingHTTPServer):
    """Answers with `plan(number, question)`: (status, headers, body); a body of a str is the model's text."""

    daemon_threads = True

    def __init__(self, plan: Callable[[int, dict[str, Any]], Any]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan, self.seen, self.lock = plan, list[tuple[str, str | None, dict[str, Any]]](), threading.Lock()

    @property
    def prompts(self) -> list[str]:
        return [question["messages"][0]["content"] for _, _, question in self.seen]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.seen)
            self.server.seen.append((self.path, self.headers["Authorization"], question))
        status, headers, body = self.server.plan(number, question)
        if isinstance(body, str):
            body = completion(body)
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # the asker has given up
            self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


def completion(text: str | None) -> bytes:
    usage = {"prompt_tokens": 11, "completion_tokens": 7}
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}).encode()


def good(number: int, question: dict[str, Any]) -> Any:
    return 200, {}, f"Answer {number} to: {question['messages'][0]['content']} And more."


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(plan: Callable[[int, dict[str, Any]], Any] = good) -> Server:
        server = Server(plan)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        started.append(server)
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1/")
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def options(**given: Any) -> Llm:
    quick = {"samples": 2, "backoff": 0.01, "timeout": 5.0, "retries": 2, "model": "test-model"}
    return Llm(**{**quick, **given})


def ask(folder: Path, classes: list[str] = CLASSES, **given: Any) -> Descriptions:
    chosen = options(**given)
    return ask_descriptions(Endpoint(chosen), classes, folder / "cache", chosen)


def secret_is_nowhere(folder: Path, *texts: str) -> None:
    for path in folder.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()
    assert not [text for text in texts if KEY in text]


def test_every_prompt_is_asked_for_every_class(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    told = ask(tmp_path, price=(0.5, 1.5))
    assert sorted(server.prompts) == sorted(
        2 * [prompt.replace("{}", name) for prompt in Llm().prompts for name in ("holding something", "tai chi")]
    )
    assert all(path == "/v1/chat/completions" and key == f"Bearer {KEY}" for path, key, _ in server.seen)
    question = server.seen[0][2]
    assert (question["model"], question["temperature"], question["max_tokens"]) == ("test-model", 0.99, 50)
    assert set(told.texts) == set(CLASSES) and not told.rejected
    assert all(len(texts) == 6 for texts in told.texts.values())
    assert all("tai chi" in text and "And more" not in text for text in told.texts["tai_chi"])
    output = capsys.readouterr()
    assert "12 requests, about" in output.err and "at most 600 to receive, at most $0.00" in output.err
    secret_is_nowhere(tmp_path, output.out, output.err, caplog.text)


def test_nothing_is_asked_twice(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve()
    first = ask(tmp_path)
    assert ask(tmp_path) == first and len(server.seen) == 12
    assert ask(tmp_path, sentences=0) != first and len(server.seen) == 12  # raw answers are kept
    ask(tmp_path, samples=3)
    assert len(server.seen) == 12 + 6
    ask(tmp_path, temperature=0.5)
    assert len(server.seen) == 18 + 12
    kept = next((tmp_path / "cache").rglob("*.json"))
    kept.write_text("half a fi")
    ask(tmp_path), ask(tmp_path, samples=3), ask(tmp_path, temperature=0.5)
    assert len(server.seen) == 30 + 1


def test_a_run_that_fails_in_the_middle_keeps_what_it_has(serve: Callable[..., Server], tmp_path: Path) -> None:
    def plan(number: int, question: dict[str, Any]) -> Any:
        return good(number, question) if number < 5 else (503, {}, b"down")

    serve(plan)
    with pytest.raises(UserError, match="no answer in 3 attempts.*503.*run again to go on"):
        ask(tmp_path, concurrency=1)
    server = serve()
    told = ask(tmp_path)
    assert len(server.seen) == 12 - 5 and sum(map(len, told.texts.values())) == 12


def test_what_passes_is_tried_again(serve: Callable[..., Server], tmp_path: Path) -> None:
    stalled = threading.Event()

    def plan(number: int, question: dict[str, Any]) -> Any:
        if number == 0:
            return 429, {"Retry-After": "0"}, b'{"error": {"message": "slow down"}}'
        if number == 1:
            stalled.wait(3)
        if number == 2:
            return 500, {}, b"<html>"
        return good(number, question)

    server = serve(plan)
    told = ask(tmp_path, classes=["tai chi"], concurrency=1, timeout=0.3, retries=3)
    stalled.set()
    assert len(told.texts["tai chi"]) == 6 and not told.rejected
    assert len(server.seen) == 6 + 3


NONSENSE = {
    "empty": "",
    "a refusal": "I'm sorry, but as an AI I cannot see.",
    "longer than 60 words": "word " * 61,
    "not a description": '{"answer": "tai chi"}',
    "not a chat completion": b"<html>hello</html>",
    "a message that is no text": completion(None).replace(b"null", b"[1]"),
}


@pytest.mark.parametrize("fault", NONSENSE)
def test_nonsense_is_asked_for_again_then_recorded(serve: Callable[..., Server], tmp_path: Path, fault: str) -> None:
    """The second question of three never gets a sensible answer, the third only at its last attempt."""
    calls: dict[str, int] = {}

    def plan(number: int, question: dict[str, Any]) -> Any:
        prompt = question["messages"][0]["content"]
        calls[prompt] = calls.get(prompt, 0) + 1
        bad = prompt.startswith("What does a person") or (prompt.startswith("What does the act") and calls[prompt] < 3)
        return (200, {}, NONSENSE[fault]) if bad else good(number, question)

    server = serve(plan)
    told = ask(tmp_path, classes=["tai chi"], samples=1)
    assert len(told.texts["tai chi"]) == 2 and len(server.seen) == 1 + 3 + 3
    (rejected,) = told.rejected
    assert rejected["class"] == "tai chi" and rejected["prompt"].startswith("What does a person")
    assert fault in rejected["fault"]
    assert ask(tmp_path, classes=["tai chi"], samples=1).texts == told.texts
    spoke = fault not in ("not a chat completion", "a message that is no text")
    assert len(server.seen) == (7 if spoke else 10)  # what was not the model's answer may be asked for again


@pytest.mark.parametrize(
    ("status", "headers", "body", "said"),
    [
        (401, {}, json.dumps({"error": {"message": f"Incorrect key: {KEY}"}}).encode(), "key: \\[key\\]"),
        (404, {}, b"no such model", "404: no such model"),
        (302, {"Location": "http://127.0.0.1:1/steal"}, b"", "answers 302"),
        (429, {"Retry-After": "86400"}, b"quota", "asks to wait 86400 s"),
    ],
)  # fmt: skip
def test_what_does_not_pass_stops_at_once(
    serve: Callable[..., Server], tmp_path: Path, status: int, headers: dict[str, str], body: bytes, said: str
) -> None:
    server = serve(lambda number, question: (status, headers, body))
    with pytest.raises(UserError, match=said) as raised:
        ask(tmp_path, concurrency=1)
    assert len(server.seen) == 1
    secret_is_nowhere(tmp_path, str(raised.value), repr(raised.value.__context__))


def test_a_key_in_an_answer_is_not_kept(serve: Callable[..., Server], tmp_path: Path) -> None:
    serve(lambda number, question: (200, {}, f"Your key is {KEY}."))
    told = ask(tmp_path, classes=["tai chi"])
    assert told.texts["tai chi"] == ["Your key is [key]."]  # equal answers are one description
    secret_is_nowhere(tmp_path)


def test_no_server_at_all(serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve()
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(UserError, match=r"127.0.0.1 does not answer.*refused"):
        ask(tmp_path)


@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        ("", "", "set OPENAI_API_KEY .and OPENAI_BASE_URL"),
        ("ftp://host/v1", KEY, "OPENAI_BASE_URL is not an http"),
        ("", f"{KEY}\nHost: evil", "OPENAI_API_KEY holds characters"),
    ],
)
def test_an_environment_that_does_not_do(monkeypatch: pytest.MonkeyPatch, url: str, key: str, said: str) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match=said) as raised:
        Endpoint(Llm())
    assert KEY not in str(raised.value)


def test_the_variables_can_be_named(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    monkeypatch.setenv("MY_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.delenv("OPENAI_API_KEY")
    ask(tmp_path, classes=["tai chi"], url_variable="MY_URL", key_variable="MY_KEY")
    assert {(path, key) for path, key, _ in server.seen} == {("/chat/completions", None)}  # a server without keys


def test_too_many_requests_are_refused_before_the_first(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve()
    with pytest.raises(UserError, match="12 requests are more than caption.llm.max_requests = 11"):
        ask(tmp_path, max_requests=11)
    with pytest.raises(UserError, match="'Tell me' has no {}"):
        ask(tmp_path, prompts=("Tell me",))
    assert not server.seen


def test_the_pace_is_kept_and_a_pause_is_everyones() -> None:
    now, waits = [0.0], list[float]()

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    pace = Pace(120, clock=lambda: now[0], sleep=sleep)
    for _ in range(3):
        pace.wait()
    assert waits == [0.5, 0.5]
    pace.pause(7)
    pace.wait()
    assert waits[-1] == 7
    pace.stop()
    with pytest.raises(UserError, match="stopped"):
        pace.wait()


def test_retry_after() -> None:
    now = 1_700_000_000.0
    assert retry_after("3", now) == 3 and retry_after("-1", now) == 0
    assert retry_after(formatdate(now + 90, usegmt=True), now) == 90
    assert retry_after(None, now) is None and retry_after("soon", now) is None


def test_tidy() -> None:
    assert tidy('1. **"A person\n bows.** Then  more."', Llm()) == "A person bows."
    assert tidy("A person, e.g. a monk, bows. More.", Llm(sentences=0)) == "A person, e.g. a monk, bows. More."
    assert tidy("cut off in the mid", Llm()) == "cut off in the mid"
    for nonsense in ("", " \n\n", '""', "I cannot do that.", "...", "<html>"):
        with pytest.raises(Unusable):
            tidy(nonsense, Llm())


def test_descriptions_made_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cupl.json"
    path.write_text(
        json.dumps({"holding something": ["A hand holds it. So.", " A hand\nholds it. So. ", "1."], "other": ["x"]})
    )
    told = read_descriptions(path, CLASSES, Llm())
    assert told.texts == {"Holding [something]": ["A hand holds it. So."], "tai_chi": []}
    assert [(each["fault"], each["answer"]) for each in told.rejected] == [("not a description", "1.")]
    assert "no description of 1 of 2 classes ('tai_chi')" in capsys.readouterr().err
    for wrong in ('["a"]', '{"a": "b"}', '{"a": [1]}', "no json"):
        path.write_text(wrong)
        with pytest.raises(UserError, match="caption.llm.file"):
            read_descriptions(path, CLASSES, Llm())


def test_a_video_draws_from_its_class() -> None:
    told = Descriptions({"a": [f"text {n}" for n in range(10)], "b": []})
    captioner = LlmCaptioner(told, per_video=3, seed=0)
    drawn = [tuple(said.text for said in captioner.describe(video("a", n))) for n in range(40)]
    assert all(len(set(texts)) == 3 for texts in drawn)
    assert {text for texts in drawn for text in texts} == set(told.texts["a"])  # a class's videos use them all
    assert drawn[7] == tuple(said.text for said in LlmCaptioner(told, 3, 0).describe(video("a", 7)))
    assert [said.text for said in LlmCaptioner(told, 0, 0).describe(video("a", 7))] == told.texts["a"]
    for label, reason in ((None, "no label"), ("b", "no usable description of 'b'"), ("c", "no usable description")):
        with pytest.raises(NoCaption, match=reason):
            captioner.describe(video(label, 0))


def video(label: str | None, number: int) -> dict[str, Any]:
    return {"label_text": label, "video_id": f"{number}.mp4"}


def test_a_local_model_answers_the_same_each_time(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<s>", "</s>", "<unk>", *(f"w{n}x" for n in range(60)), "Describe"]
    core = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "model"
    PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                         num_attention_heads=2, bos_token_id=0, eos_token_id=1)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    chosen = options(local=str(folder), device="cpu", max_tokens=6, concurrency=1, retries=0)
    state = torch.get_rng_state()
    first = ask_descriptions(LocalModel(chosen), CLASSES, tmp_path / "one", chosen)
    assert first == ask_descriptions(LocalModel(chosen), CLASSES, tmp_path / "two", chosen)
    assert torch.equal(state, torch.get_rng_state())
    assert len(set(first.texts["tai_chi"])) > 3
    kept = json.loads(Cache(tmp_path / "one", LocalModel(chosen).identity, chosen).path(
        Question("tai_chi", "Describe the action tai chi.", 0)).read_text())  # fmt: skip
    assert kept["answered"] <= 6 and len(kept["weights"]) == 64
    with pytest.raises(UserError, match="caption.llm.local"):
        LocalModel(options(local=str(tmp_path / "one")))


@pytest.mark.parametrize("where", ["headers", "body"])
def test_an_answer_that_trickles_has_an_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str) -> None:
    """A byte every now and then is never a time without one."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def trickle(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            connection.sendall(head if where == "headers" else head + b"\r\n")
            while not stopped.wait(0.05):
                connection.sendall(b"X: y\r\n" if where == "headers" else b" ")

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=trickle, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    began = time.monotonic()
    with pytest.raises(UserError, match=r"has not answered in full within 0.4 s"):
        ask(tmp_path, classes=["tai chi"], samples=1, retries=1, deadline=0.4)
    assert time.monotonic() - began < 10
    stopped.set()
    listener.close()


def test_an_answer_that_never_ends_is_none(serve: Callable[..., Server], tmp_path: Path) -> None:
    serve(lambda number, question: (200, {}, b" " * (3 << 20)))
    told = ask(tmp_path, classes=["tai chi"], samples=1, retries=0)
    assert not told.texts["tai chi"]
    assert {each["fault"] for each in told.rejected} == {"an answer of more than 1048576 bytes"}


def test_an_answer_nested_too_deep_is_none(serve: Callable[..., Server], tmp_path: Path) -> None:
    serve(lambda number, question: (200, {}, b"[" * 200_000))
    told = ask(tmp_path, classes=["tai chi"], samples=1, retries=0)
    assert "not a chat completion" in told.rejected[0]["fault"]
