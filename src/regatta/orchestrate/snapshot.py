"""A study as an observer may believe it: read from records alone, by any process."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from regatta.config.expand import RunSpec, expand_study, protocol_id
from regatta.core.errors import RecordError, RegattaError
from regatta.core.json_text import parse_json
from regatta.records.lease import holder
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.records.status import LIVE, RESUME, ProcessId, Status, observed, read_status
from regatta.records.submission import open_submission


@dataclass(frozen=True)
class RunView:
    """One run. `curve` holds the validation accuracies in order, as fractions."""

    run_id: str
    entry: str
    seed: int
    status: Status
    trained: bool
    judged: bool
    curve: tuple[float, ...] = ()


@dataclass(frozen=True)
class StudyView:
    """One study. `supervised` is None when the supervisor is on a host that cannot be asked.

    `problem` says why the study cannot be read; then there are no runs.
    """

    name: str
    path: Path
    runs: tuple[RunView, ...] = ()
    supervisor: ProcessId | None = None
    supervised: bool | None = False
    report: Path | None = None
    problem: str = ""
    data: RunView | None = None
    """The reading of the data, while it is at work."""
    jobs: tuple[str, ...] = ()
    """Jobs of a cluster's scheduler that have not all ended, as far as records tell."""

    @property
    def rows(self) -> tuple[RunView, ...]:
        """What a display shows: the runs, and before them the reading of the data."""
        return (self.data, *self.runs) if self.data else self.runs

    @property
    def counts(self) -> dict[str, int]:
        """State -> number of runs, most frequent first."""
        return dict(Counter(run.status.state for run in self.runs).most_common())

    @property
    def is_over(self) -> bool:
        """Whether nothing works on the study and nothing will."""
        if self.jobs or self.supervised is not False:
            return False
        return not any(run.status.state in LIVE for run in self.runs)


def status_of(run: RunFolder) -> Status:
    """The run's status; a damaged file says nothing, the run's other files decide then."""
    try:
        return read_status(run.status)
    except RecordError:
        return Status()


def has_begun(run: RunFolder) -> bool:
    """Whether the run has something to resume from."""
    return run.is_trained() or (run.checkpoints.is_dir() and any(run.checkpoints.iterdir()))


def resting_state(run: RunFolder) -> Literal["interrupted", "pending"]:
    """The state of an unfinished run without a worker: cut short, or before its next phase."""
    return "interrupted" if has_begun(run) and not run.is_trained() else "pending"


def next_phase(run: RunFolder) -> str:
    """What comes next for a run that is not done."""
    return "judge" if run.is_trained() else "train"


class StudyReader:
    """Reads one study again and again; keeps what has not changed on disk."""

    def __init__(self, folder: StudyFolder) -> None:
        self.folder = folder
        self._version: tuple[int, int] | None = None
        self._runs: list[tuple[RunSpec, RunFolder]] = []
        self._protocol = ""
        self._curves: dict[str, _Curve] = {}
        self._statuses: dict[str, tuple[tuple[int, int], Status]] = {}

    def read(self, *, curves: bool = False) -> StudyView:
        """The study now; a study that cannot be read is a view with a `problem`."""
        name, path = self.folder.path.name, self.folder.path
        try:
            self._reread_study()
            supervisor = holder(self.folder.lease)
            supervised = supervisor.is_alive() if supervisor else False
            submission = open_submission(self.folder.submission)
            jobs = tuple(submission.job_ids) if submission else ()
            runs = tuple(
                self._view(spec, run, bool(jobs) or supervised, curves)
                for spec, run in self._runs
                if self._is_shown(spec, run)
            )
        except RegattaError as error:
            return StudyView(name, path, problem=str(error))
        page = self.folder.report / "report.html"
        report = page if page.is_file() else None
        return StudyView(name, path, runs, supervisor, supervised, report, "", self._data(), jobs)

    def _is_shown(self, spec: RunSpec, run: RunFolder) -> bool:
        """A seed that was not imported is none of an imported entry, unless it has no other."""
        if not spec.entry.is_imported or run.is_judged(self._protocol):
            return True
        mine = [(other, its) for other, its in self._runs if other.entry.name == spec.entry.name]
        return mine[0][0] == spec and not any(its.is_judged(self._protocol) for _, its in mine)

    def _data(self) -> RunView | None:
        try:
            status = observed(read_status(self.folder.prepare_status))
        except RecordError:
            return None
        return RunView("data", "", 0, status, False, False) if status.state in LIVE else None

    def _reread_study(self) -> None:
        if self.folder.study_yaml.is_file():
            stat = self.folder.study_yaml.stat()
            if self._version == (stat.st_mtime_ns, stat.st_ino):
                return
            self._version = (stat.st_mtime_ns, stat.st_ino)
        study = self.folder.study()
        self._runs = [(spec, self.folder.run(spec.run_id)) for spec in expand_study(study)]
        self._protocol = protocol_id(study.protocol)

    def _view(
        self, spec: RunSpec, run: RunFolder, supervised: bool | None, curves: bool
    ) -> RunView:
        if spec.entry.is_imported:
            status = imported_status(run, self._protocol, entry=spec.entry.name)
            judged = status.state == "imported"
            return RunView(spec.run_id, spec.entry.name, spec.seed, status, False, judged)
        curve = self._curves.setdefault(run.run_id, _Curve(run.metrics)) if curves else None
        judged = run.is_judged(self._protocol)
        return RunView(
            spec.run_id,
            spec.entry.name,
            spec.seed,
            truthful(self._status(run), run, judged=judged, supervised=supervised),
            run.is_trained(),
            judged,
            curve.read() if curve else (),
        )

    def _status(self, run: RunFolder) -> Status:
        """Parsed once per version of the file: a display asks every second for hundreds of runs."""
        if not run.status.is_file():
            return Status()
        stat = run.status.stat()
        version, known = (stat.st_mtime_ns, stat.st_ino), self._statuses.get(run.run_id)
        if known is None or known[0] != version:
            known = self._statuses[run.run_id] = (version, status_of(run))
        return known[1]


def truthful(status: Status, run: RunFolder, *, judged: bool, supervised: bool | None) -> Status:
    """`status` corrected by what files and processes prove.

    Predictions decide on `done`, and a run only waits in a queue while somebody serves the queue.
    """
    status = observed(status)
    if judged:
        return replace(status, state="done", phase="", cause=None, message=None, next_step=None)
    if status.state == "done":
        return replace(status, state="pending", phase=next_phase(run))
    if status.state == "queued" and supervised is False:
        return replace(status, state=resting_state(run), phase=next_phase(run))
    return status


def without_jobs(view: StudyView) -> StudyView:
    """The view once the scheduler's jobs turned out to be gone: what they had is lost or waits."""

    def told(run: RunView) -> RunView:
        status = run.status
        if status.state in LIVE:
            fields = {"cause": "lost", "message": "its job is gone", "next_step": RESUME}
            return replace(run, status=replace(status, state="lost", **fields))
        if status.state == "queued":
            return replace(run, status=replace(status, state="pending"))
        return run

    return replace(view, jobs=(), runs=tuple(map(told, view.runs)))


FRESH_SECONDS = 60.0
"""A run whose heartbeat is younger is known to live, whatever a scheduler says."""


def with_unknown(view: StudyView, *, why: str) -> StudyView:
    """The view while the scheduler of its jobs is silent: what only it could tell is unknown."""

    def told(run: RunView) -> RunView:
        status = run.status
        alive = status.state in LIVE and time.time() - status.heartbeat < FRESH_SECONDS
        if alive or status.state not in {"queued", *LIVE}:
            return run
        fields = {"cause": "scheduler", "message": why, "next_step": ASK_AGAIN}
        return replace(run, status=replace(status, state="unknown", **fields))

    return replace(view, runs=tuple(map(told, view.runs)))


ASK_AGAIN = "ask again with regatta watch; its job goes on without this"


def imported_status(run: RunFolder, protocol: str, *, entry: str) -> Status:
    """The state of a run whose predictions come from elsewhere; it has no status file."""
    if run.is_judged(protocol):
        return Status(state="imported")
    return Status(
        state="pending",
        cause="not imported",
        message="nothing was imported under this protocol",
        next_step=f"regatta compare {run.path.parent.parent} --import {entry}=FILE",
    )


def study_json(view: StudyView) -> dict[str, Any]:
    """The view for programs: every field of each run's status, flat."""
    return {
        "name": view.name,
        "path": str(view.path),
        "supervisor": asdict(view.supervisor) if view.supervisor else None,
        "supervised": view.supervised,
        "jobs": list(view.jobs),
        "counts": view.counts,
        "report": str(view.report) if view.report else None,
        "problem": view.problem or None,
        "runs": [
            {
                "run_id": run.run_id,
                "entry": run.entry,
                "seed": run.seed,
                "trained": run.trained,
                "judged": run.judged,
                **asdict(run.status),
            }
            for run in view.runs
        ],
    }


class _Curve:
    """Validation accuracies of a growing metrics file, read from where the last reading ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._inode = 0
        self._values: list[float] = []

    def read(self) -> tuple[float, ...]:
        if not self._path.is_file():
            return ()
        stat = self._path.stat()
        if stat.st_size < self._offset or stat.st_ino != self._inode:
            # A resumed run rewinds its record.
            self._offset, self._inode, self._values = 0, stat.st_ino, []
        if stat.st_size > self._offset:
            with open(self._path, "rb") as handle:
                handle.seek(self._offset)
                whole, newline, _ = handle.read().rpartition(b"\n")
            self._offset += len(whole) + len(newline)
            self._values += [v for line in whole.splitlines() if (v := _accuracy(line)) is not None]
        return tuple(self._values)


def _accuracy(line: bytes) -> float | None:
    try:
        record = parse_json(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or record.get("split") != "validation":
        return None
    value = record.get("accuracy")
    return float(value) if isinstance(value, int | float) else None
