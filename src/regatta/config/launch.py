"""What `launch:` may say in a study file: where and how the runs are started."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from regatta.config.section import Section

_TIME = re.compile(r"(?:(\d{1,9})-)?(\d{1,9})(?::(\d{1,2}))?(?::(\d{1,2}))?")
_OPTION = re.compile(r"[a-z][a-z0-9-]*")
_OURS = {
    "array": "launch.max_parallel",
    "dependency": "entries.NAME.needs",
    "job-name": "",
    "nodes": "launch.nodes",
    "ntasks": "launch.devices",
    "ntasks-per-node": "launch.devices",
    "ntasks-per-gpu": "launch.devices",
    "gpus": "launch.devices",
    "gpus-per-node": "launch.devices",
    "gpus-per-task": "launch.devices",
    "cpus-per-task": "launch.threads_per_run",
    "cpus-per-gpu": "launch.threads_per_run",
    "mem": "launch.memory_gib_per_run",
    "mem-per-cpu": "launch.memory_gib_per_run",
    "mem-per-gpu": "launch.memory_gib_per_run",
    "time": "launch.time",
    "signal": "launch.signal_seconds",
    "partition": "launch.partition",
    "account": "launch.account",
    "qos": "launch.qos",
    "constraint": "launch.constraint",
    **dict.fromkeys(
        ("requeue", "no-requeue", "hold", "kill-on-invalid-dep", "open-mode", "output", "error"), ""
    ),
    **dict.fromkeys(("input", "wrap", "chdir", "parsable", "test-only", "wait", "clusters"), ""),
    # Variables of a job may load code.
    **dict.fromkeys(("export", "export-file", "get-user-env", "bcast", "uid", "gid"), ""),
}
"""Options of sbatch that Regatta sets itself, and the key that moves each ("" = none does)."""
_FREE = frozenset({"gres", "exclusive", "reservation", "nodelist", "exclude", "licenses"})


class LaunchSection(Section):
    """Where and how the runs are started."""

    on: Literal["local", "slurm", "ray"] = "local"
    """local = processes of this machine; slurm = jobs of the cluster that `sbatch` submits to; ray
    = a Ray cluster, or one that is started here. Records and results are the same."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    device_ids: list[int] | None = None
    """GPU indices to use; None = all visible."""
    devices: Annotated[float, Field(gt=0)] = 1
    """Devices per run: 1, 4 (train.parallel is then ddp unless it says otherwise), or a share
    (0.25 = four runs on one GPU)."""
    max_parallel: int | None = Field(default=None, ge=1)
    """Most runs at once; None = one per GPU share, or one per CPU core on a machine without (with
    `share` at least one per entry)."""
    threads_per_run: int | None = Field(default=None, ge=1)
    """CPU threads of one run; None = cores divided by parallel runs. Recorded, and kept on
    resume."""
    retries: int = Field(default=2, ge=0)
    """Restarts from the last checkpoint after a crash or stall, per run."""
    track: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = []
    """Mirrors of the training records; metrics.jsonl stays the truth."""
    share: bool = False
    """Runs of one seed that train at the same time decode each clip once between them. Their
    results are the same as without."""
    share_gib: float = Field(default=2.0, gt=0)
    """Most memory that shared clips take while they wait for a run that is behind."""
    stall_seconds: float = Field(default=300.0, gt=0)
    """A worker silent for this long is dumped, killed and restarted."""
    grace_seconds: float = Field(default=20.0, gt=0)
    """Time to save and leave after a stop request, before the kill."""
    memory_gib_per_run: float | None = Field(default=None, gt=0)
    """Host memory one run needs; None = measured guess. A run starts only if it fits."""
    nodes: int = Field(default=1, ge=1)
    """slurm: machines that one run spreads over, `devices` being the number on each."""
    partition: str | None = None
    """slurm, like the four below: passed on to sbatch; None = the cluster's own default."""
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: str | None = None
    """Time limit of one job: minutes, H:MM:SS or D-HH:MM:SS. A run that is not done by then saves,
    is queued again, and resumes."""
    signal_seconds: int = Field(default=120, ge=10)
    """slurm: so long before the time limit a run is told to save and to queue again."""
    slurm_options: dict[str, str | int | bool] = {}
    """Other options of sbatch by their long names, such as {reservation: vision, exclude: n7}."""
    address: str | None = None
    """ray: `auto` = the cluster that this machine belongs to, or ray://host:port; None = start one
    here for the length of the launch."""

    @field_validator("time", mode="before")
    @classmethod
    def _plain_minutes(cls, value: object) -> object:
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return str(value) if is_number else value

    @field_validator("time")
    @classmethod
    def _readable_time(cls, text: str | None) -> str | None:
        if text is not None and time_minutes(text) < 1:
            raise ValueError(
                f"'{text}' is not a time limit of a minute or more: 90, 4:00:00, 1-00:00:00"
            )
        return text

    @field_validator("slurm_options")
    @classmethod
    def _options_left_to_users(
        cls, options: dict[str, str | int | bool]
    ) -> dict[str, str | int | bool]:
        for name, value in options.items():
            if not _OPTION.fullmatch(name):
                raise ValueError(f"'{name}' is not the long name of an option of sbatch")
            # sbatch also takes the beginning of a name for the whole.
            ours = name if name in _OURS else next((o for o in _OURS if o.startswith(name)), None)
            if ours and name not in _FREE:
                use = f"; use {_OURS[ours]}" if _OURS[ours] else ""
                raise ValueError(f"sbatch's {ours} is not left to slurm_options{use}")
            # Each becomes a line of a script.
            if not str(value).isprintable():
                raise ValueError(f"the value of {name} holds a line break or a control character")
        return options

    @field_validator("partition", "account", "qos", "constraint", "address")
    @classmethod
    def _one_line(cls, text: str | None) -> str | None:
        if text is not None and (not text.isprintable() or not text.strip()):
            raise ValueError("a name on one line, or null")
        return text


def time_minutes(text: str) -> int:
    """Whole minutes of a time limit as sbatch reads it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Seconds count as a begun minute; 0 for what is no time.
    """
    match = _TIME.fullmatch(text.strip())
    if not match:
        return 0
    days, first, second, third = (int(part) if part else 0 for part in match.groups())
    if match[1] is not None or match[4] is not None:
        hours, minutes, seconds = first, second, third
    else:
        hours, minutes, seconds = 0, first, second
    return (days * 24 + hours) * 60 + minutes + (seconds > 0)
