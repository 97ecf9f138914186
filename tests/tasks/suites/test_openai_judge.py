"""The judge that asks an endpoint, against a server of the test's own."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from reft_interp.tasks.suites import openai_judge

KEY = "not-to-be-shown"


class Server(ThreadingHTTPServer):
    """Answers `reply(body)`, a status and the verdict (bytes: the whole reply)."""

    reply: Callable[[dict], tuple[int, Any]]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.requests: list[tuple[str, str, dict]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers["Authorization"], body))
        status, content = self.server.reply(body)
        reply = {"choices": [{"message": {"content": content}}]}
        data = content if isinstance(content, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def shown(body):
    """The two responses, as the model reads them."""
    text = body["messages"][0]["content"]
    a, b = text.split("[Response A]\n")[1].split("\n\n[Response B]\n")
    return a, b.split("\n\nWhich response")[0]


def prefers_good(body):
    return 200, "A" if shown(body)[0] == "good" else "B"


def test_the_request_is_that_of_chat_completions(server):
    server.reply = prefers_good
    judge = openai_judge(f"{server.url}/", "some-model", KEY)
    assert judge("do it", "good", "bad") == 1.0
    ((path, authorization, body),) = server.requests
    assert (path, authorization) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert (body["model"], body["temperature"]) == ("some-model", 0)
    assert "[Instruction]\ndo it\n" in body["messages"][0]["content"]
    assert set(shown(body)) == {"good", "bad"}
    assert judge.__name__ == "some-model"


def test_the_verdict_is_of_the_output_wherever_it_was_shown(server):
    server.reply = prefers_good
    judge = openai_judge(server.url, "m", KEY)
    instructions = [f"do {i}" for i in range(20)]
    assert {judge(i, "good", "bad") for i in instructions} == {1.0}
    assert {judge(i, "bad", "good") for i in instructions} == {0.0}


def test_the_order_is_that_of_the_seed(server):
    server.reply = lambda body: (200, "A")
    instructions = [f"do {i}" for i in range(24)]

    def first(seed):
        judge = openai_judge(server.url, "m", KEY, seed=seed)
        return [judge(i, "good", "bad") for i in instructions]

    # A judge that always takes the first response wins as often as it is shown first.
    assert first(0) == first(0) != first(1)
    assert 3 < sum(first(0)) < 21  # within 3.7 standard deviations of 24 fair coins


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("tie", 0.5),
        ("Tie.", 0.5),
        (" **A**", 1.0),
        ("A: it is better", 1.0),
        ("Response A", 1.0),
        ("b", 0.0),
        ("Output (a) is better.", 1.0),
        ("B. A is shorter.", 0.0),
        ("A is shorter, but wrong.\n\nThe better response is **B**.", 0.0),
        ("**Verdict:** tie", 0.5),
    ],
)
def test_verdicts_are_read(server, reply, verdict):
    server.reply = lambda body: (200, reply)
    judge = openai_judge(server.url, "m", KEY)
    verdicts = [judge(f"do {i}", "good", "bad") for i in range(8)]
    for found, (_, _, body) in zip(verdicts, server.requests, strict=True):
        output_first = shown(body)[0] == "good"
        assert found == (verdict if output_first or verdict == 0.5 else 1 - verdict)


@pytest.mark.parametrize(
    "reply", ["Both are fine", "C", "", "a better one is B", "A tie", "A better one is B", None]
)
def test_a_reply_that_is_no_verdict_is_shown(server, reply):
    server.reply = lambda body: (200, reply)
    with pytest.raises(ValueError, match="must reply A, B or tie, it replied"):
        openai_judge(server.url, "m", KEY)("do", "good", "bad")


@pytest.mark.parametrize("content", [b"<html>", b"{}", b'{"choices": []}', b"[]"])
def test_a_server_that_speaks_otherwise_is_named(server, content):
    server.reply = lambda body: (200, content)
    with pytest.raises(ValueError, match=r"/v1/chat/completions must reply as chat completions do"):
        openai_judge(server.url, "m", KEY)("do", "good", "bad")


def test_a_busy_server_is_asked_again(server):
    statuses = [503, 429, 200]
    server.reply = lambda body: (statuses[len(server.requests) - 1], "tie")
    judge = openai_judge(server.url, "m", KEY, wait=0.0)
    assert judge("do", "good", "bad") == 0.5
    assert len(server.requests) == 3


@pytest.mark.parametrize(("status", "asked"), [(401, 1), (503, 3)])
def test_a_refusal_says_the_status_and_never_the_key(server, status, asked):
    server.reply = lambda body: (status, b"no entry")
    with pytest.raises(ConnectionError, match=f"status {status}: no entry") as error:
        openai_judge(server.url, "m", KEY, retries=2, wait=0.0)("do", "good", "bad")
    assert KEY not in str(error.value)
    assert len(server.requests) == asked


def test_a_server_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    judge = openai_judge("http://127.0.0.1:9", "m", KEY, retries=1, wait=0.0)
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:9/chat/completions gave no verdict"):
        judge("do", "good", "bad")
