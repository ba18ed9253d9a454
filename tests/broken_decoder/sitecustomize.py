"""Breaks the decoder of any process that has this folder on its path, for files with given names.

BROKEN_DECODER: `name=what[@word]`, several separated by commas. what: segv, abort, hang, spin or
kill. With a word, only in processes that have it on their command line. BROKEN_DECODER_LOG: file
that gets a line each time it happens.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Any


def break_here(what: str) -> None:
    library = ctypes.CDLL(None)
    if what == "segv":
        # In native code and without the lock of the interpreter, as a decoder would.
        library.memset(None, 0, 1)
    elif what == "abort":
        library.abort()
    elif what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    while what == "spin":
        pass
    while True:
        library.sleep(1000)


def install(orders: dict[str, str]) -> None:
    import av

    real = av.open

    def broken_open(name: Any, *arguments: Any, **keywords: Any) -> Any:
        what, _, word = orders.get(Path(str(name)).name, "").partition("@")
        if what and (not word or word in sys.argv):
            with open(os.environ["BROKEN_DECODER_LOG"], "a", encoding="utf-8") as log:
                log.write(f"{Path(str(name)).name} {what} {os.getpid()}\n")
            break_here(what)
        return real(name, *arguments, **keywords)

    av.open = broken_open


_wanted = os.environ.get("BROKEN_DECODER")
if _wanted:
    install(dict(pair.split("=", 1) for pair in _wanted.split(",")))
