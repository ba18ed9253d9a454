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

    real_open, real_read = av.open, Path.read_bytes

    def perhaps(name: str) -> None:
        what, _, word = orders.get(name, "").partition("@")
        if what and (not word or word in sys.argv):
            with open(os.environ["BROKEN_DECODER_LOG"], "a", encoding="utf-8") as log:
                log.write(f"{name} {what} {os.getpid()}\n")
            break_here(what)

    def broken_open(name: Any, *arguments: Any, **keywords: Any) -> Any:
        perhaps(Path(str(name)).name)
        return real_open(name, *arguments, **keywords)

    def broken_read(self: Path) -> bytes:
        # Pictures are decoded from their bytes, where nobody knows a name any more.
        if self.suffix == ".png":
            perhaps(self.name)
        return real_read(self)

    av.open, Path.read_bytes = broken_open, broken_read


_wanted = os.environ.get("BROKEN_DECODER")
if _wanted:
    install(dict(pair.split("=", 1) for pair in _wanted.split(",")))
