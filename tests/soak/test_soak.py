"""Promise of the whole: a study that is killed at random until it is done equals a clean one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.soak.conftest import SIZE
from tests.soak.race import ROLES, Race

SEED = 20_260
FIGURES = {"REGATTA_FIGURE_FORMATS": "svg"}


class Reaper:
    """Kills a random process of a study every few seconds, and one of each new role soon.

    Roles that last for seconds only (reading the data, comparing) would else be hit by luck alone.
    """

    def __init__(self, race: Race, *, every: tuple[float, float], soon: float, most: int) -> None:
        self._race, self._every, self._soon, self._most = race, every, soon, most
        self._random = random.Random(SEED)
        self._due = time.monotonic() + self._random.uniform(*every)
        self._met: dict[str, float] = {}
        self.kills: Counter[str] = Counter()

    def look(self) -> None:
        """Kill, if it is time."""
        if self.kills.total() >= self._most:
            return
        now, living = time.monotonic(), sorted(self._race.processes())
        for role in sorted({role for _, role in living} - self._met.keys()):
            self._met[role] = now + self._random.uniform(0, self._soon)
        fresh = [p for p in living if not self.kills[p[1]] and now >= self._met[p[1]]]
        if not living or (now < self._due and not fresh):
            return
        pid, role = self._random.choice(fresh or living)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.kills[role] += 1
        self._due = now + self._random.uniform(*self._every)


def run_until_done(race: Race, reaper: Reaper, *, seconds: float) -> int:
    """Launch the same command until it says that all is done; returns how often it was launched."""
    deadline, launches = time.monotonic() + seconds, 0
    child: subprocess.Popen[str] | None = None
    while child is None or child.poll() != 0:
        assert time.monotonic() < deadline, (race.home / "output.txt").read_text()[-3000:]
        if child is None or child.poll() is not None:
            child, launches = race.start(env=FIGURES), launches + 1
        reaper.look()
        time.sleep(0.1)
    return launches


def both(tmp_path: Path, **size: Any) -> tuple[Race, Race]:
    """The same study twice: one to be left alone, one to be killed."""
    entries = ("cnn1d", "har-vit")
    races = [Race(tmp_path / name, entries=entries, **size) for name in ("clean", "killed")]
    return races[0], races[1]


@pytest.mark.fault(30)
@pytest.mark.soak
def test_a_study_of_six_runs_killed_every_few_seconds_equals_the_clean_one(
    tmp_path: Path, no_leaks: None
):
    clean, killed = both(tmp_path, seeds=3, epochs=24, windows_per_class=8)
    finished = clean.call(seconds=900, env=FIGURES)
    assert finished.code == 0, finished.output
    reaper = Reaper(killed, every=(5, 20), soon=3, most=10_000)
    began = time.monotonic()
    launches = run_until_done(killed, reaper, seconds=1500)
    minutes = (time.monotonic() - began) / 60
    print(f"{minutes:.1f} min, {launches} launches, killed: {dict(reaper.kills)}")
    assert reaper.kills.total() >= 10
    assert {"supervisor", "prepare", "train", "judge"} <= reaper.kills.keys()
    assert killed.facts() == clean.facts()
    assert not list(killed.processes())


@pytest.mark.fault(30)
@pytest.mark.slow
def test_a_small_study_killed_in_every_role_equals_the_clean_one(
    tmp_path: Path, clean: Race, no_leaks: None
):
    killed = Race(tmp_path / "killed", **SIZE)
    # Nothing but the first kill of each role.
    reaper = Reaper(killed, every=(3600, 3600), soon=2, most=20)
    run_until_done(killed, reaper, seconds=300)
    assert reaper.kills.keys() >= set(ROLES)
    assert killed.facts() == clean.facts()
    assert not list(killed.processes())
