"""Promises of wording by a model: only measured numbers pass, and no server can hold a run up."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from regatta.core.errors import RunError
from regatta.evaluation.explain import write_explanations
from regatta.evaluation.wording import KEY_VARIABLE, MARK, Asked, Wording, ask, problem_of, word
from tests.evaluation.test_explain import CAMERAS, SURE, TRACKS, predictions, seen

FIELDS: dict[str, Any] = {
    "class": "helical",
    "probability": 0.91,
    "runner_up": "circular",
    "runner_up_probability": 0.07,
    "frames_ahead": 5,
    "forecast": [0.31, -0.44, 0.6],
    "radius": 0.52,
    "turns": 1.3,
    "agrees": True,
    "plane_residual": "not measured",
}


@pytest.mark.parametrize(
    "reply",
    [
        "A helical motion (0.91).",
        "Helical at 91 %, with a radius of 0.52 and 1.3 turns.",
        "The helical track goes to (0.31, -0.44, 0.60) in 5 frames.",
        "helical; radius 0.5; \u22120.44 along y",
        "It is helical.",
    ],
)
def test_measured_numbers_pass_as_they_are_or_rounded(reply):
    assert problem_of(reply, FIELDS) is None


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("helical, radius 0.53", "0.53"),
        ("helical, radius 0.521", "0.521"),
        ("helical, at 0.44", "0.44"),
        ("helical, in 4 views", "4"),
        ("helical with 1 turn", "1"),
        ("helical at 92%", "92"),
        ("helical at 9.1e-1", "9.1e-1"),
        ("helical, radius 0,52", "0,52"),
        ("helical, about two turns", "two"),
        ("helical, half a turn", "half"),
        ("helical, radius \u00bd", "\u00bd"),
        ("helical, \u0661.\u0663 turns", "\u0661"),
        ("circular, 0.91", "class"),
        ("", "0 characters"),
        ("helical " * 200, "1600 characters"),
    ],
)
def test_any_other_number_is_refused(reply, why):
    assert why in str(problem_of(reply, FIELDS))


Answer = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """An endpoint on this machine that answers so."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            answer(self, json.loads(self.rfile.read(length)))

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(handler: BaseHTTPRequestHandler, content: bytes, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def says(text: Any) -> Answer:
    content = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
    return lambda handler, _: send(handler, content)


def wording(endpoint: str, seconds: float = 20.0) -> Wording:
    return Wording(endpoint, "some-model", seconds)


def test_the_fields_and_the_key_are_all_that_is_sent(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    got: list[tuple[str, str | None, dict[str, Any]]] = []

    def note(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        got.append((handler.path, handler.headers["Authorization"], body))
        says("  helical\n0.91 ")(handler, body)

    with serving(note) as endpoint:
        assert ask(wording(endpoint), FIELDS) == "helical 0.91"
        monkeypatch.delenv(KEY_VARIABLE)
        ask(wording(endpoint), FIELDS)
        # A study chooses the address: it must not get the key in clear text over a network.
        monkeypatch.setenv(KEY_VARIABLE, "secret")
        elsewhere = endpoint.replace("127.0.0.1", "127.1")
        ask(wording(elsewhere), FIELDS)
    assert [key for _, key, _ in got[1:]] == [None, None]
    path, key, body = got[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    assert body["model"] == "some-model"
    assert json.loads(body["messages"][-1]["content"]) == FIELDS
    assert "secret" not in json.dumps(body)
    assert got[1][1] is None


def test_a_reply_with_measured_numbers_is_marked_and_another_one_is_not_taken():
    asked = Asked()
    with serving(says("Helical, 0.91.")) as endpoint:
        record = word(wording(endpoint), FIELDS, asked)
    assert record == {"text": f"Helical, 0.91. {MARK}", "source": "some-model"}
    with serving(says("Helical, 0.99.")) as endpoint:
        assert word(wording(endpoint), FIELDS, asked) == {"accepted": False}
    assert (asked.accepted, asked.refused, asked.unanswered) == (1, 1, 0)
    assert "0.99" in asked.problems[0]


def redirect(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    handler.send_response(302)
    handler.send_header("Location", "http://127.0.0.1:9/elsewhere")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@pytest.mark.parametrize(
    "answer",
    [
        lambda handler, _: send(handler, b"busy", 503),
        lambda handler, _: send(handler, b"{}", 401),
        lambda handler, _: send(handler, b"<html>"),
        lambda handler, _: send(handler, b'{"choices": []}'),
        lambda handler, _: send(handler, b"\xff\xfe{"),
        says(None),
        says({"a": 1}),
        redirect,
    ],
)
def test_answers_of_another_form_are_named_errors(answer):
    with serving(answer) as endpoint, pytest.raises(RunError):
        ask(wording(endpoint), FIELDS)


def test_nobody_there_is_a_named_error():
    with pytest.raises(RunError, match="no answer"):
        ask(wording("http://127.0.0.1:9/v1"), FIELDS)


@pytest.mark.parametrize("trickles", [False, True])
def test_a_slow_server_is_left_in_time(trickles):
    over = threading.Event()

    def slow(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        if trickles:
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
        while not over.wait(0.05):
            if trickles:
                try:
                    handler.wfile.write(b" ")
                except OSError:
                    return

    with serving(slow) as endpoint:
        with pytest.raises(RunError, match=r"timed out|longer than 0.3"):
            ask(wording(endpoint, 0.3), FIELDS)
        over.set()


def test_a_server_that_never_answers_is_asked_three_times_and_all_templates_stand(tmp_path):
    questions: list[int] = []

    def busy(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        questions.append(1)
        send(handler, b"busy", 503)

    many = predictions(SURE[[0, 1, 2] * 3])
    pixels = seen(TRACKS[[0, 1, 2] * 3])
    with serving(busy) as endpoint:
        asked = write_explanations(tmp_path / "a", many, CAMERAS, pixels, wording=wording(endpoint))
    assert len(questions) == asked.unanswered == 3
    write_explanations(tmp_path / "b", many, CAMERAS, pixels)
    files = [(tmp_path / name / "explanations.jsonl").read_bytes() for name in "ab"]
    assert files[0] == files[1]


def test_as_many_texts_are_worded_as_asked_and_refusals_stand_in_the_file(tmp_path):
    def echo(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        fields = json.loads(body["messages"][-1]["content"])
        number = "7.77" if fields["class"] == "circular" else str(fields["probability"])
        says(f"{fields['class']} with {number}")(handler, body)

    polled: list[int] = []
    with serving(echo) as endpoint:
        write_explanations(
            tmp_path,
            predictions(SURE),
            CAMERAS,
            seen(TRACKS[:3]),
            wording=wording(endpoint),
            worded=2,
            poll=lambda: polled.append(1),
        )
    lines = [
        json.loads(line) for line in (tmp_path / "explanations.jsonl").read_text().splitlines()
    ]
    assert [line["source"] for line in lines] == ["some-model", "template", "template"]
    assert [line["accepted"] for line in lines] == [True, False, True]
    assert lines[0]["text"] == f"linear with 0.9 {MARK}"
    assert lines[1]["text"].startswith("circular (0.91;")
    assert len(polled) == 2
