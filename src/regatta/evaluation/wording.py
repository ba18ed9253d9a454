"""A language model that words measured fields anew, over any OpenAI-compatible endpoint.

Off unless a study names an endpoint. Only the fields are sent, and no number comes back that was
not among them: a reply with another one is refused.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit

from regatta.core.errors import ConfigError, RunError

MARK = "(worded by a model)"
MOST_CHARACTERS, MOST_BYTES = 800, 1 << 20
MOST_FAILURES = 3
"""Unanswered questions in a row after which no more are asked: 2,000 waits would take hours."""
_ASK = (
    "Write one or two plain sentences from these measured fields. Use no number that is not among "
    "them, write numbers as digits, name the class, and add nothing of your own."
)
_NUMBER = re.compile(r"[-\u2212\u2013+]?\d+(?:[.,]\d+)*(?:[eE][-+]?\d+)?")
_NUMBER_WORDS = re.compile(
    r"\b(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozens?|twenty|thirty|fifty|"
    r"hundreds?|thousands?|half|halves|thirds?|quarters?|twice|double|triple|zero)\b",
    re.IGNORECASE,
)


KEY_VARIABLE = "REGATTA_EXPLAIN_KEY"
"""One name of our own: a study that could name any variable could send any secret away."""


@dataclass(frozen=True)
class Wording:
    """endpoint: "https://host/v1". The key is read from the variable `KEY_VARIABLE` when that is
    set, goes to this machine or through https alone, and is written nowhere."""

    endpoint: str
    model: str
    timeout_seconds: float = 20.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(
                f"explain_endpoint is no web address: {self.endpoint!r}",
                where="protocol.options.explain_endpoint",
                hint="give it as http://localhost:8000/v1",
            )
        if not self.model or self.timeout_seconds <= 0:
            raise ConfigError(
                "wording by a model takes its name and a time above 0",
                where="protocol.options.explain_model",
                hint="set explain_model and explain_timeout_seconds",
            )


@dataclass
class Asked:
    """What became of the questions; problems: of those without a usable reply, in order."""

    accepted: int = 0
    refused: int = 0
    unanswered: int = 0
    in_a_row: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def goes_on(self) -> bool:
        return self.in_a_row < MOST_FAILURES


def word(wording: Wording, fields: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
    """What changes in a record: text and source of an accepted reply, or that it was not."""
    try:
        reply = ask(wording, fields)
    except RunError as error:
        asked.unanswered += 1
        asked.in_a_row += 1
        asked.problems.append(error.what)
        return {}
    asked.in_a_row = 0
    problem = problem_of(reply, fields)
    if problem:
        asked.refused += 1
        asked.problems.append(problem)
        return {"accepted": False}
    asked.accepted += 1
    return {"text": f"{reply} {MARK}", "source": wording.model}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    # A redirected request would carry the key to another host.
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


def ask(wording: Wording, fields: Mapping[str, Any]) -> str:
    """The model's sentences.

    Raises:
        RunError: nobody answers in time, an error status, or an answer of another form.
    """
    body = {
        "model": wording.model,
        "temperature": 0,
        "max_tokens": 200,
        "messages": [
            {"role": "system", "content": _ASK},
            {"role": "user", "content": json.dumps(fields)},
        ],
    }
    headers = {"Content-Type": "application/json"}
    key = os.environ.get(KEY_VARIABLE)
    if key and _keeps_secrets(wording.endpoint):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(  # noqa: S310 (the scheme is checked in Wording)
        f"{wording.endpoint.rstrip('/')}/chat/completions",
        json.dumps(body).encode(),
        headers,
    )
    try:
        answer = json.loads(_read(request, wording.timeout_seconds))
        reply = answer["choices"][0]["message"]["content"]
    except (URLError, OSError, HTTPException) as error:
        raise RunError(f"no answer: {error}", where=wording.endpoint) from error
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise RunError("the answer is no chat completion", where=wording.endpoint) from error
    if not isinstance(reply, str):
        raise RunError("the answer has no text", where=wording.endpoint)
    return " ".join(reply.split())


def _keeps_secrets(endpoint: str) -> bool:
    """Whether nobody on the way can read what is sent there."""
    parts = urlsplit(endpoint)
    return parts.scheme == "https" or parts.hostname in ("localhost", "127.0.0.1", "::1")


def _read(request: urllib.request.Request, seconds: float) -> bytes:
    """The whole answer within `seconds`, also from a server that sends a byte now and then."""
    deadline, content = time.monotonic() + seconds, b""
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=seconds) as response:
        while chunk := response.read1(1 << 16):
            content += chunk
            if time.monotonic() > deadline:
                raise TimeoutError(f"the answer took longer than {seconds:g} s")
            if len(content) > MOST_BYTES:
                raise ValueError("the answer is too long")
    return content


def problem_of(reply: str, fields: Mapping[str, Any]) -> str | None:
    """Why a reply cannot stand; None when it can.

    Every number in it must be one of the fields, rounded to as many decimals as it has, or a
    hundred times one where "%" follows. Numbers in words are refused, as they cannot be checked.
    """
    if not reply or len(reply) > MOST_CHARACTERS:
        return f"the reply has {len(reply)} characters"
    if str(fields["class"]).lower() not in reply.lower():
        return "the reply does not name the class"
    spelled = _NUMBER_WORDS.search(reply)
    if spelled:
        return f"the reply writes a number in words: {spelled[0]}"
    strange = [c for c in reply if c.isnumeric() and not c.isascii()]
    if strange:
        return f"the reply holds {strange[0]!r}"
    known = list(_numbers(fields))
    for match in _NUMBER.finditer(reply):
        share = reply[match.end() :].lstrip().startswith("%")
        if not _is_among(match[0], known, share=share):
            return f"the reply holds {match[0]}, which was not measured"
    return None


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield float(value)


def _is_among(text: str, known: list[float], *, share: bool) -> bool:
    text = text.replace("\u2212", "-").replace("\u2013", "-")
    if "," in text or not text.lstrip("+-").replace(".", "", 1).isdigit():
        return False
    decimals = len(text.partition(".")[2])
    number, scale = float(text), 100 if share else 1
    # A whole number must be one itself: rounded to none, nearly every field is 0 or 1.
    reach = 0.5 * 10.0**-decimals if decimals else 0.0
    return any(math.isclose(number, scale * f, rel_tol=0, abs_tol=reach + 1e-9) for f in known)
