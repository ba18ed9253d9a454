"""Promises of the random streams and the stop flag."""

from __future__ import annotations

import signal
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from regatta.core.seeds import derive_seed, stream


def test_seed_is_the_documented_hash():
    # First 8 bytes of sha256("7/order/3"), big-endian, without the lowest bit: computed by hand
    # with sha256sum.
    import hashlib

    expected = int(hashlib.sha256(b"7/order/3").hexdigest()[:16], 16) // 2
    assert derive_seed(7, "order", 3) == expected


@given(st.integers(0, 2**31), st.text(max_size=10), st.text(max_size=10))
def test_streams_with_different_names_differ(seed: int, first: str, second: str):
    same = stream(seed, first).random() == stream(seed, second).random()
    assert same == (first == second)


def test_drawing_from_one_stream_leaves_another_alone():
    alone = stream(1, "b").random(3).tolist()
    stream(1, "a").random(1000)
    assert stream(1, "b").random(3).tolist() == alone


def _signalled(count: int, *, body: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import os, signal\nfrom regatta.core.signals import StopFlag\n"
        "flag = StopFlag().install()\n"
        f"for _ in range({count}): os.kill(os.getpid(), signal.SIGTERM)\n" + body
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_first_signal_only_sets_the_flag():
    child = _signalled(1, body="print(flag.requested, flag.signal_name, flag.exit_code)")
    assert child.stdout.split() == ["True", "SIGTERM", "143"]
    assert child.returncode == 0


def test_third_signal_leaves_at_once_with_the_signal_code():
    child = _signalled(3, body="print('still here')")
    assert child.returncode == 128 + signal.SIGTERM
    assert child.stdout == ""
