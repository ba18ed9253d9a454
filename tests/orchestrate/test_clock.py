"""Promises when the wall clock jumps: durations, stalls and leases go by other clocks."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from regatta.core.files import write_json
from regatta.records.status import Status, this_process
from tests.orchestrate.clock_here import Clock
from tests.orchestrate.toy import HOLDING, Toy, toy_mapping, wait_until


@pytest.mark.fault(29)
@pytest.mark.parametrize("hours", [1, -1])
def test_a_jump_of_an_hour_ends_no_run_and_frees_no_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int, no_leaks: None
):
    clock = Clock(tmp_path)
    for name, text in clock.environment().items():
        monkeypatch.setenv(name, text)
    # A stall would be found, a grace time would end, and a stagger would last, within seconds.
    toy = Toy(tmp_path, toy_mapping(("ann", "bob"), stall_seconds=30, grace_seconds=20))
    toy.prepare()
    toy.order({"train:ann": ["hold"], "train:bob": ["hold"]})
    supervisor = toy.start("supervise")
    wait_until(lambda: toy.status("ann").step == HOLDING, "ann holds")
    before = toy.status("ann").heartbeat
    clock.jump(hours=hours)
    wait_until(
        lambda: abs(toy.status("ann").heartbeat - before) > 3000, "the worker's clock has jumped"
    )
    second = toy.call("supervise")
    assert second.code == 3, second.output
    assert f"process {supervisor.pid} " in second.output
    wait_until(lambda: toy.status("bob").step == HOLDING, "bob starts in its turn")
    shown = toy.call("status", str(toy.folder.path))
    assert "silent" not in shown.output, shown.output
    supervisor.send_signal(signal.SIGINT)
    output, _ = supervisor.communicate(timeout=15)
    assert supervisor.returncode == 130, output
    assert "no sign of life" not in output
    assert "starting again" not in output
    assert len(toy.starts("train")) == 2
    assert not toy.folder.lease.exists()
    assert clock.was_read


BEATS = """
import json, sys, time
from dataclasses import replace
from pathlib import Path
from regatta.core.files import write_json
path = Path(sys.argv[1])
content = json.loads(path.read_text())
while True:
    content["heartbeat"] += 0.2
    write_json(path, content, durable=False)
    time.sleep(0.2)
"""


@pytest.mark.fault(29)
def test_a_worker_elsewhere_whose_clock_is_hours_behind_is_left_alone(tmp_path: Path):
    toy = Toy(tmp_path, toy_mapping(("ann",)))
    toy.prepare()
    path, elsewhere = toy.run("ann").status, replace(this_process(), host="elsewhere")
    status = Status(state="running", phase="train", process=asdict(elsewhere))
    write_json(path, {**asdict(status), "heartbeat": time.time() - 7200})
    with subprocess.Popen([sys.executable, "-c", BEATS, str(path)]) as other:
        try:
            before = toy.status("ann").heartbeat
            wait_until(lambda: toy.status("ann").heartbeat != before, "it beats")
            finished = toy.call("supervise")
        finally:
            other.kill()
    assert finished.code == 3, finished.output
    assert "elsewhere" in finished.output
    assert toy.starts() == []
    # Once it is silent, and as old as it says, the run is free.
    assert toy.call("supervise").code == 0
