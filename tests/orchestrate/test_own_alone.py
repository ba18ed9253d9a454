"""What only this user may reach: sockets of ranks, the folder of jobs, a cluster of our own; and
what is told to other machines."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from regatta.core.errors import EnvironmentFault, RecordError
from regatta.orchestrate import machine_use
from regatta.orchestrate.rank_links import knock_here, listen_here
from regatta.orchestrate.ray_host import passed_on_variables
from regatta.orchestrate.slurm import _make_own_folder

LISTEN_AS = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
os.setuid(65534)
listener.bind(sys.argv[1])
listener.listen(4)
print("listening", flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="listening as another user needs root")
def test_a_socket_at_which_somebody_else_listens_gets_no_word(tmp_path: Path) -> None:
    place = Path("/tmp") / f"regatta-test-{os.getpid()}"
    place.mkdir(mode=0o1777)
    place.chmod(0o1777)
    path = place / "s"
    command = [sys.executable, "-c", LISTEN_AS, str(path)]
    try:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "listening\n"
            # The name may say it is ours: what counts is who is behind it.
            os.chown(path, os.getuid(), -1)
            with pytest.raises(RecordError, match="another user's"):
                knock_here(path, hello={"rank": 1})
            other.kill()
    finally:
        path.unlink(missing_ok=True)
        place.rmdir()


def test_a_socket_of_ranks_is_for_this_user_alone_whatever_the_mask(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        with listen_here(tmp_path / "s"):
            assert (tmp_path / "s").stat().st_mode & 0o077 == 0
        assert os.umask(0o000) == 0o000, "the mask of this process is as it was"
    finally:
        os.umask(before)


def test_a_folder_of_jobs_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "slurm"
    _make_own_folder(path)
    assert path.stat().st_mode & 0o777 == 0o700
    _make_own_folder(path)
    path.chmod(0o770)
    with pytest.raises(EnvironmentFault, match="others could put code"):
        _make_own_folder(path)
    elsewhere = tmp_path / "link"
    elsewhere.symlink_to(tmp_path)
    with pytest.raises(EnvironmentFault, match="others could put code"):
        _make_own_folder(elsewhere)


def test_no_secret_is_told_to_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = ["HF_TOKEN", "HF_HUB_TOKEN", "WANDB_API_KEY", "REGATTA_EXPLAIN_KEY", "AWS_SECRET", "A"]
    for name in secret:
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("REGATTA_FIGURE_FORMATS", "svg")
    told = passed_on_variables()
    assert "canary" not in told.values()
    assert (told["HF_HUB_OFFLINE"], told["REGATTA_FIGURE_FORMATS"]) == ("1", "svg")
    assert told["PATH"] == os.environ["PATH"]


SIGNAL = """
import os, signal, sys
from regatta.core.errors import EnvironmentFault
from regatta.orchestrate.processes import kill_tree, signal_process
from regatta.records.status import process_identity
os.setuid(65534)
who = process_identity(int(sys.argv[1]))
for act in (lambda: signal_process(who, signal.SIGTERM), lambda: kill_tree(who)):
    try:
        act()
    except EnvironmentFault as error:
        print(error.what)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="working as another user needs root")
def test_a_process_of_another_user_is_named_and_not_a_trace() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        done = subprocess.run(
            [sys.executable, "-c", SIGNAL, str(stranger.pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert stranger.poll() is None
        stranger.kill()
    said = f"process {stranger.pid} belongs to another user and cannot be signalled"
    assert done.stdout.splitlines() == [said, said], done.stderr


@pytest.mark.usefixtures("no_leaks")
def test_a_driver_whose_child_keeps_its_output_holds_up_no_display(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\nsleep 8 &\n")
    command.chmod(0o755)
    monkeypatch.setattr(machine_use, "EVERY_SECONDS", 0.0)
    gauge = machine_use.MachineGauge(_smi=str(command))
    began = time.monotonic()
    for _ in range(6):
        gauge.read()
        time.sleep(0.2)
    gauge.close()
    assert time.monotonic() - began < 5
