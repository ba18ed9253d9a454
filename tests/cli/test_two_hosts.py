"""Promises of one run over two hosts that have addresses and names of their own.

Where this machine gives no network namespaces (it needs root), they are skipped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from regatta.core.files import read_json
from regatta.orchestrate.rank_links import SILENT_SECONDS
from tests.cli.machine_ranks import MachineRanks, end_ranks, ends
from tests.cli.torchrun_home import RECIPE, WHAT, open_home, sets
from tests.cli.two_hosts import Host, cut, open_hosts
from tests.orchestrate.toy import lives, toy_study, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with open_hosts() as both:
        yield both


def test_a_cable_that_is_cut_ends_both_sides(hosts: tuple[Host, Host], tmp_path: Path):
    with toy_study(tmp_path):
        ranks = MachineRanks(tmp_path)
        children = [ranks.start(n, before=host.before) for n, host in enumerate(hosts)]
        try:
            starts = ranks.wait_for_workers()
            reached = f"MASTER_ADDR={hosts[0].address}".encode()
            for start in starts:
                given = Path(f"/proc/{start['pid']}/environ").read_bytes()
                assert reached in given.split(b"\0")
            cut(hosts)
            began = time.monotonic()
            codes, outputs = ends(children)
            assert time.monotonic() - began < SILENT_SECONDS + 30
            assert codes == [143, 1], outputs
            wait_until(lambda: not any(map(lives, starts)), "no worker is left")
            assert ranks.toy.status("ann").state == "interrupted"
        finally:
            end_ranks()


def test_who_is_missing_and_who_came_is_told_by_host(hosts: tuple[Host, Host], tmp_path: Path):
    with toy_study(tmp_path):
        ranks = MachineRanks(tmp_path, machines=(1, 2))
        quick = {"REGATTA_MEETING_SECONDS": "8"}
        try:
            # It is up first: it must come in the time that the first rank has.
            second = ranks.start(1, before=hosts[1].before)
            first = ranks.start(0, before=hosts[0].before, variables=quick)
            codes, outputs = ends([first, second])
            assert codes == [3, 3], outputs
            came = f"rank 0 ({hosts[0].name}), rank 1 ({hosts[1].name}); missing: rank 2"
            assert came in outputs[0]
        finally:
            end_ranks()


def test_torchrun_on_two_hosts_trains_one_run(hosts: tuple[Host, Host], tmp_path: Path):
    words = ["train", "--name", "far", "--model", "videomae", "--epochs", "1"]
    with open_home(tmp_path) as home:
        children = []
        for host in hosts:
            meet = ("--rdzv-backend=c10d", f"--rdzv-endpoint={hosts[0].address}:29500")
            group = ("--nnodes=2", *meet, "--rdzv-id=far")
            child = home.start(
                *words,
                *WHAT,
                *RECIPE,
                *sets(),
                ranks=1,
                group=group,
                before=host.before,
            )
            children.append(child)
        ended = [home.end(child) for child in children]
        assert [code for code, _ in ended] == [0, 0], ended
        assert "torchrun, 2 processes on 2 machines" in ended[0][1] + ended[1][1]
        assert read_json(home.run("far").training_results)["world"] == 2
