"""Processes that measure, so that neither a peak, a limit nor a crash of one reaches another.

They are forked from a process that has imported torch and never used it: no thread pool, no CUDA
context and no large array is inherited.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from regatta.core.errors import RegattaError

ANSWER_SECONDS = 1800.0
"""Far more than any measurement takes: only what stands still for good is ended by it."""
_PR_SET_PDEATHSIG = 1


class ChildCrashed(Exception):
    """The measuring process ended without an answer."""


class MeasuringChild:
    """A process that answers requests with `answer(request)`, until `close`.

    Args:
        make_answer: called once in the new process; what it returns answers.
        answer_seconds: longest time of one answer.
    """

    def __init__(
        self,
        make_answer: Callable[[], Callable[[Any], Any]],
        *,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._seconds = answer_seconds
        context = multiprocessing.get_context("fork")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self._ours, make_answer, os.getpid())
        )
        self._process.start()
        theirs.close()

    def ask(self, request: Any) -> Any:
        """The answer, or the exception that it ended with.

        Raises:
            ChildCrashed: the process is gone, or stands still and was ended; says how.
            RegattaError: raised by `answer`.
        """
        try:
            self._ours.send(request)
            if not self._ours.poll(self._seconds):
                self.close()
                raise ChildCrashed(f"no answer for {self._seconds:g} s: it was ended")
            kind, content = self._ours.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join()
            raise ChildCrashed(_ending(self._process.exitcode or 0)) from error
        if kind == "error":
            raise content
        return content

    def close(self) -> None:
        """End the process now; safe to call twice."""
        self._ours.close()
        self._process.kill()
        self._process.join()


def _ending(exit_code: int) -> str:
    if exit_code >= 0:
        return f"the measuring process ended with exit code {exit_code}"
    return f"the measuring process was ended by {signal.Signals(-exit_code).name}"


def _serve(
    pipe: Connection, other_end: Connection, make_answer: Callable[[], Any], parent: int
) -> None:
    other_end.close()
    _die_with(parent)
    # The terminal's Ctrl-C is the parent's business, who ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answer = None
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        try:
            answer = answer or make_answer()
            pipe.send(("answer", answer(request)))
        except RegattaError as error:
            pipe.send(("error", error))
        except Exception as error:  # noqa: BLE001 - the process's edge: the trace goes to the log
            traceback.print_exc()
            text = (str(error).strip().splitlines() or [""])[0][:200]
            pipe.send(("error", ChildCrashed(f"{type(error).__name__}: {text}")))


def _die_with(parent: int) -> None:
    """Have the kernel end this process when its parent is gone."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
