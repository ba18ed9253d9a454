"""Promises of ranks on several machines: they meet, believe nobody else, and hang for nobody.

Real processes with a toy worker; each "machine" is one torchrun's share of this one.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Listener
from pathlib import Path

import pytest

from regatta.core.errors import RecordError
from regatta.core.signals import StopFlag
from regatta.orchestrate.devices import Gpu, Machine, Memory
from regatta.orchestrate.plan import Task
from regatta.orchestrate.rank_links import Invitation, common_address, own_addresses
from regatta.orchestrate.rank_links import read_invitation as read
from regatta.orchestrate.rank_places import Place, slurm_place
from regatta.orchestrate.ranks import Crew, RankLauncher
from tests.cli.machine_ranks import MachineRanks, end_ranks, ends
from tests.orchestrate.toy import launch_section, lives, toy_study, wait_until


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with toy_study(tmp_path):
        yield tmp_path
        end_ranks()


@pytest.mark.parametrize("slurm", [False, True])
def test_ranks_of_all_machines_work_on_one_run(root: Path, slurm: bool):
    ranks = MachineRanks(root, machines=(2, 1))
    children = [ranks.start(rank, slurm=slurm) for rank in (2, 1, 0)]
    starts = ranks.wait_for_workers()
    assert ranks.meeting_files() == []
    assert {start["env"]["RANK"] for start in starts} == {"0", "1", "2"}
    assert len({start["env"]["MASTER_PORT"] for start in starts}) == 1
    logs = {path.name for path in ranks.toy.run("ann").path.glob("log*")}
    assert logs == {"log.txt", "log-rank2.txt"}
    ranks.toy.release()
    codes, outputs = ends(children)
    assert codes == [0, 0, 0], outputs
    assert outputs[:2] == ["", ""]
    assert f"{'Slurm' if slurm else 'torchrun'}, 3 processes on 2 machines, CPU" in outputs[2]


def test_a_runs_folder_that_is_not_shared_is_named_by_both_sides(root: Path):
    ranks = MachineRanks(root, machines=(2, 1))
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    quick = {"REGATTA_MEETING_SECONDS": "8"}
    # Rank 1 is up first: it must come in the time that the first rank has.
    second = ranks.start(1)
    third = ranks.start(2, runs=elsewhere, variables=quick)
    codes, outputs = ends([ranks.start(0, variables=quick), second, third])
    assert codes == [3, 3, 3], outputs
    host = socket.gethostname()
    came = f"2 of 3 processes of torchrun came within 8 s: rank 0 ({host}), rank 1 ({host});"
    assert f"{came} missing: rank 2" in outputs[0]
    assert "a disk that all machines share?" in outputs[0]
    assert outputs[1] == ""
    assert f"rank 2 ({host}) did not find the first rank" in outputs[2]
    assert str(elsewhere) in outputs[2]
    assert ranks.meeting_files() == []
    assert ranks.toy.starts() == []


def raw(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=5)


def test_strangers_at_the_port_neither_join_nor_hold_up_the_meeting(root: Path):
    ranks = MachineRanks(root)
    first = ranks.start(0)
    (path,) = wait_until(ranks.meeting_files, "the meeting file")
    assert path.stat().st_mode & 0o777 == 0o600
    address = ("127.0.0.1", read(path).port)
    silent = [raw(address) for _ in range(20)]
    with raw(address) as liar:
        # No key, and the word of a rank.
        hello = json.dumps({"rank": 1, "group": "toy", "host": "x", "node": 1}).encode()
        liar.sendall(len(hello).to_bytes(4, "big") + hello)
        with pytest.raises(AuthenticationError):
            Client(address, authkey=b"not the key")
        second = ranks.start(1)
        starts = ranks.wait_for_workers()
        # Silent for as long as they are patient with it, they were never let in.
        with suppress(ConnectionError):
            assert b"met" not in liar.recv(4096)
    for connected in silent:
        connected.close()
    assert {start["env"]["RANK"] for start in starts} == {"0", "1"}
    with pytest.raises(ConnectionRefusedError):
        raw(address)
    ranks.toy.release()
    codes, outputs = ends([first, second])
    assert codes == [0, 0], outputs


def test_nobody_who_lacks_the_key_gives_orders(root: Path):
    ranks = MachineRanks(root)
    crime = root / "crime"
    order = {"start": ["touch", str(crime)], "env": {}, "log": str(root / "log")}
    place = Place(1, 2, 1, 0, 1, "torchrun", "toy-localhost-29400", ranks.toy.runs_root)
    # A meeting file that a dead first rank has left, and another program at its port now.
    with Listener(("127.0.0.1", 0)) as false_first:
        port = int(false_first.address[1])
        Invitation(["127.0.0.1"], port, b"the key of before".hex()).write(place.meeting_file)
        second = ranks.start(1)
        caller = false_first.accept()
        caller.send_bytes(b"#CHALLENGE#" + bytes(20))
        caller.recv_bytes()
        caller.send_bytes(b"#WELCOME#")
        caller.recv_bytes()
        caller.send_bytes(bytes(16))
        with suppress(OSError):
            caller.send_bytes(json.dumps(order).encode())
    first = ranks.start(0)
    ranks.wait_for_workers()
    ranks.toy.release()
    codes, outputs = ends([first, second])
    assert codes == [0, 0], outputs
    assert not crime.exists()
    caller.close()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_gone_ends_those_of_other_machines(root: Path, victim: int):
    ranks = MachineRanks(root)
    children = [ranks.start(0), ranks.start(1)]
    starts = ranks.wait_for_workers()
    children[victim].kill()
    codes, _ = ends(children)
    assert codes[1 - victim] in (1, 143)
    wait_until(lambda: not any(map(lives, starts)), "no worker is left")
    if victim:
        assert ranks.toy.status("ann").state == "interrupted"
        assert not ranks.toy.folder.lease.exists()


def connections(port: int) -> int:
    """Ends of living connections at this port of this machine, both sides counted."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(f":{port:04X}" in row[1] + row[2] and row[3] == "01" for row in rows)


def test_a_rank_that_is_asked_to_stop_before_all_have_met_stops_them(root: Path):
    ranks = MachineRanks(root, machines=(1, 2))
    children = [ranks.start(0), ranks.start(1)]
    (path,) = wait_until(ranks.meeting_files, "the meeting file")
    port = read(path).port
    wait_until(lambda: connections(port) == 2, "rank 1 has come")
    children[1].terminate()
    codes, outputs = ends(children)
    assert codes == [143, 143], outputs
    assert ranks.meeting_files() == []
    assert ranks.toy.starts() == []


def test_a_first_rank_that_comes_again_is_found(root: Path):
    ranks = MachineRanks(root)
    lost = ranks.start(0)
    wait_until(ranks.meeting_files, "the meeting file")
    lost.kill()
    ends([lost])
    second = ranks.start(1)
    first = ranks.start(0)
    ranks.wait_for_workers()
    ranks.toy.release()
    codes, outputs = ends([first, second])
    assert codes == [0, 0], outputs
    assert ranks.meeting_files() == []


def test_only_a_file_of_our_own_that_nobody_else_reads_is_believed(tmp_path: Path):
    path, invitation = tmp_path / "meeting.json", Invitation(["10.0.0.1"], 5, "aa")
    with pytest.raises(RecordError, match="no meeting file"):
        read(path)
    invitation.write(path)
    assert read(path) == invitation
    path.chmod(0o644)
    with pytest.raises(RecordError, match="another user's, or open to others"):
        read(path)
    path.chmod(0o600)
    if os.getuid() == 0:
        os.chown(path, 12345, -1)
        with pytest.raises(RecordError, match="another user's"):
            read(path)
        os.chown(path, 0, -1)
    Invitation(["10.0.0.1"], 5, "bb").remove(path)
    assert path.exists(), "that of a newer group stays"
    invitation.remove(path)
    assert not path.exists()


def test_the_address_is_one_of_this_machine_and_that_which_most_have_reached():
    addresses = own_addresses(["192.0.2.1", "localhost"])
    assert "192.0.2.1" not in addresses, "nobody has this address (RFC 5737)"
    assert addresses[-1].startswith("127.")
    assert common_address(["a", "b"], ["b", "b", "a"]) == "b"
    assert common_address(["a", "b"], []) == "a"


FOLLOWER = """
import sys
from pathlib import Path
from regatta.core.signals import StopFlag
from regatta.orchestrate.rank_places import Place
from regatta.orchestrate.ranks import follow_first
place = Place(1, 2, 1, 0, 1, "torchrun", "gpus", Path(sys.argv[1]))
sys.exit(follow_first(place, StopFlag().install()))
"""
TELL_PLACE = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['MASTER_ADDR'])"


@pytest.mark.parametrize(("ids", "told"), [(None, ["0", "5"]), ([2], ["2", "2"])])
def test_each_machine_keeps_its_own_gpus_unless_the_study_names_them(
    tmp_path: Path, ids: list[int] | None, told: list[str]
):
    gpus = tuple(Gpu(number, "", "GPU", 80.0, 80.0) for number in range(4))
    section = launch_section(device="cuda", device_ids=ids)
    place = Place(0, 2, 1, 0, 0, "torchrun", "gpus", tmp_path)
    log = tmp_path / "log.txt"
    task = Task("t", "train", (sys.executable, "-c", TELL_PLACE), log, run_ids=("run",))
    follower = subprocess.Popen(
        [sys.executable, "-c", FOLLOWER, str(tmp_path)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "5"},
    )
    with Crew(place, StopFlag()) as crew:
        launcher = RankLauncher(Machine(2, Memory(8, 8), gpus), section, runs=1, crew=crew)
        launcher.start(task, threads=1)
        (ended,) = wait_until(lambda: launcher.wait(0.1), "both workers have ended")
        launcher.close()
        crew.dismiss(0)
    assert (ended.exit_code, follower.wait(timeout=20)) == (0, 0)
    words = [path.read_text().split() for path in (log, tmp_path / "log-rank1.txt")]
    assert [visible for visible, _ in words] == told
    (address,) = {address for _, address in words}
    assert address in own_addresses([])


SLURM_FACTS = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "7"}


def test_a_slurm_task_knows_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for key in [key for key in os.environ if key.startswith("SLURM")]:
        monkeypatch.delenv(key)
    # What a batch script sees: it is none of the tasks.
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "7")
    assert slurm_place(tmp_path) is None
    own = {"SLURM_PROCID": "6", "SLURM_LOCALID": "0", "SLURM_NODEID": "3"}
    tasks = {"SLURM_STEP_TASKS_PER_NODE": "2(x3),1"}
    for key, value in {**SLURM_FACTS, **own, **tasks}.items():
        monkeypatch.setenv(key, value)
    place = slurm_place(tmp_path)
    assert place is not None
    assert (place.rank, place.world, place.here, place.node) == (6, 7, 1, 3)
    assert place.environment == {
        "RANK": "6",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "7",
        "LOCAL_WORLD_SIZE": "1",
    }
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    again = slurm_place(tmp_path)
    assert again is not None
    assert again.meeting_file != place.meeting_file, "a requeued job must not meet the one before"
