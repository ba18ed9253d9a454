"""What a study has handed to a cluster's scheduler, so that nobody hands it over twice."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from regatta.core.errors import RecordError
from regatta.core.files import read_json, write_json


@dataclass(frozen=True)
class Stage:
    """One job array (or single job) of the scheduler.

    elements: for each element of the array the run ids that it works on; [] for what concerns all.
    """

    name: str
    job_id: str
    elements: list[list[str]]


@dataclass(frozen=True)
class Submission:
    """The jobs of one launch. `token` is in their names, so that they can be found by it.

    state: `submitting` = the jobs are held back until all are known; `submitted` = they may run;
    `closed` = none of them is left.
    """

    token: str
    state: Literal["submitting", "submitted", "closed"]
    stages: list[Stage]
    submitted_at: float
    """Wall-clock epoch seconds."""
    scheduler: str = "slurm"

    @property
    def job_ids(self) -> list[str]:
        return [stage.job_id for stage in self.stages]

    def jobs_of(self, run_id: str) -> dict[str, list[str]]:
        """Jobs, as the scheduler numbers them, that work on the run -> all runs of each."""
        return {
            stage.job_id + (f"_{number}" if len(stage.elements) > 1 else ""): run_ids
            for stage in self.stages
            for number, run_ids in enumerate(stage.elements)
            if run_id in run_ids
        }

    def with_state(self, state: Literal["submitted", "closed"]) -> Submission:
        return replace(self, state=state)


def write_submission(path: Path, submission: Submission) -> None:
    write_json(path, asdict(submission))


def read_submission(path: Path) -> Submission | None:
    """The last submission of a study, or None when there never was one.

    Raises:
        RecordError: the file is no record of a submission.
    """
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        return _parse(content)
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise RecordError(
            "this is no record of submitted jobs",
            where=path,
            hint="look for jobs of this study with squeue, cancel them, then delete the file",
        ) from error


def close_submission(path: Path, *, token: str) -> None:
    """None of the submission's jobs is left; one of another token stays as it is."""
    submission = read_submission(path)
    if submission and submission.token == token:
        write_submission(path, submission.with_state("closed"))


def open_submission(path: Path) -> Submission | None:
    """The submission whose jobs may still be there."""
    submission = read_submission(path)
    return submission if submission and submission.state != "closed" else None


def _parse(content: Any) -> Submission:
    stages = [
        Stage(str(s["name"]), str(s["job_id"]), [list(map(str, e)) for e in s["elements"]])
        for s in content["stages"]
    ]
    if content["state"] not in {"submitting", "submitted", "closed"}:
        raise ValueError(content["state"])
    return Submission(
        str(content["token"]),
        content["state"],
        stages,
        float(content["submitted_at"]),
        str(content["scheduler"]),
    )
