"""Mirrors of a run's training records: TensorBoard, W&B, Trackio and MLflow.

metrics.jsonl is the truth. A mirror is fed on rank 0 with what is appended there, under the same
step, by a thread of its own: training never waits for it. One that fails is named once and left
alone. By default none of them uses a network.

runs/<study>/runs/<id>/logs/          TensorBoard
runs/<study>/runs/<id>/wandb/         W&B, offline
runs/<study>/trackers/trackio|mlflow  Trackio and MLflow, all runs of the study together
runs/<study>/runs/<id>/tracked.json   what was mirrored, so that a resume repeats nothing
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from queue import Full, Queue
from tempfile import TemporaryDirectory
from threading import Lock, Thread, current_thread
from typing import Any, Protocol, TextIO

from regatta.config.expand import RunSpec
from regatta.core.errors import RegattaError
from regatta.core.extras import check_trackers
from regatta.core.files import read_json, write_json
from regatta.core.passed_on import hide_folders
from regatta.records.metrics_stream import read_metrics
from regatta.records.run_folder import RunFolder, StudyFolder

logger = logging.getLogger(__name__)

Record = dict[str, Any]
_TAGS = {
    "train": {
        "loss": "Loss/train",
        "accuracy": "Accuracy/train",
        "lr": "LR",
        "samples_per_second": "Throughput",
    },
    "validation": {
        "loss": "Loss/val",
        "accuracy": "Accuracy/val",
        "macro_f1": "MacroF1/val",
        "balanced_accuracy": "BalancedAccuracy/val",
    },
}
_SILENCE = {
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
}
"""What these packages would send to their makers unasked; a value that the user set stays."""


FINISH_SECONDS = 10.0
"""Most that the end of a run waits for its mirrors, once all of the run is written."""
LEAVE_SECONDS = 2.0
"""The same of a run that was stopped, or has failed."""
MOST_WAITING = 100_000
"""Records that a slow tracker may be behind."""
_notes = Lock()
"""Two mirrors note what they sent in one file."""


class Tracker(Protocol):
    """One open mirror of one run."""

    def log(self, values: dict[str, float], step: int) -> None: ...
    def close(self, *, succeeded: bool) -> None: ...


@dataclass(frozen=True)
class Tracked:
    """The run as its mirrors know it."""

    study: str
    label: str
    group: str
    run: RunFolder
    common: Path
    """Folder of the trackers that keep all runs of a study together."""
    config: dict[str, Any]

    @property
    def note(self) -> Path:
        return self.run.path / "tracked.json"


def values_of(record: Record) -> dict[str, float]:
    """A record of metrics.jsonl as tag -> value; what was not measured is left out."""
    tags = _TAGS.get(record["split"], {})
    return {tag: record[key] for key, tag in tags.items() if record.get(key) is not None}


@contextmanager
def open_trackers(
    folder: StudyFolder, run_spec: RunSpec, run: RunFolder, *, speaks: bool
) -> Iterator[Callable[[Record], None]]:
    """What `train_run(observe=...)` takes; the mirrors of `launch.track` are closed with the block.

    Args:
        speaks: whether this process is the one that mirrors: rank 0.
    Raises:
        MissingExtraError: a tracker is not installed.
    """
    study = folder.study()
    check_trackers(study.launch.track)
    about = Tracked(
        study.name,
        run_spec.label,
        run_spec.entry.name,
        run,
        folder.path / "trackers",
        hide_folders(
            {
                "model": run_spec.entry.model_dump(mode="json", exclude={"train"}),
                "train": run_spec.train.model_dump(mode="json"),
                "seed": run_spec.seed,
                "run_id": run_spec.run_id,
            }
        ),
    )
    mirrors = Mirrors(about, study.launch.track if speaks else ())
    succeeded = False
    try:
        yield mirrors.observe
        succeeded = True
    finally:
        seconds = FINISH_SECONDS if succeeded else LEAVE_SECONDS
        mirrors.close(succeeded=succeeded, seconds=seconds)


@dataclass
class Mirrors:
    """The mirrors of one run; each begins with the first record, in a thread of its own."""

    about: Tracked
    names: Sequence[str]
    _feeds: dict[str, _Feed] = field(default_factory=dict)

    def observe(self, record: Record) -> None:
        """Hand over one record that was just appended to metrics.jsonl; waits for no tracker and
        raises nothing."""
        for name in self.names:
            if name not in self._feeds:
                self._feeds[name] = _Feed(name, self.about)
            self._feeds[name].put(record)

    def close(self, *, succeeded: bool, seconds: float = FINISH_SECONDS) -> None:
        """Close the mirrors, and leave those alone that take longer. Raises nothing."""
        deadline = time.monotonic() + seconds
        for feed in self._feeds.values():
            feed.end(succeeded=succeeded)
        for feed in self._feeds.values():
            feed.wait(deadline)
        self._feeds.clear()
        _sweep()


def _sweep() -> None:
    """Remove what W&B keeps among the temporary files until the interpreter ends: that of a worker
    is left without ceremony."""
    media = sys.modules.get("wandb.sdk.data_types._private")
    artifacts = sys.modules.get("wandb.sdk.artifacts.artifact")
    places = [
        getattr(media, "MEDIA_TMP", None),
        getattr(getattr(artifacts, "Artifact", None), "_TMP_DIR", None),
    ]
    for place in places:
        if isinstance(place, TemporaryDirectory):
            with suppress(OSError):
                place.cleanup()


class _Feed:
    """The way of records to one mirror.

    A tracker may wait for a server as long as it likes: it does so here, and training goes on.
    """

    def __init__(self, name: str, about: Tracked) -> None:
        self._name, self._about = name, about
        self._waiting: Queue[Record | bool] = Queue(MOST_WAITING)
        self._is_given_up = False
        try:
            self._past = read_metrics(about.run.metrics)[:-1]
        except RegattaError as error:
            self._past = []
            self._give_up(f"{type(error).__name__}: {error.what}")
        self._thread = Thread(target=self._run, name=f"regatta-track-{name}", daemon=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        if not self._is_given_up:
            try:
                self._waiting.put_nowait(record)
            except Full:
                self._give_up(f"it is {MOST_WAITING} records behind")

    def end(self, *, succeeded: bool) -> None:
        """No record will follow."""
        # With the queue full it was given up, and nobody waits.
        with suppress(Full):
            self._waiting.put_nowait(succeeded)

    def wait(self, deadline: float) -> None:
        """Until the mirror is closed, or until the time is over."""
        if not self._is_given_up:
            self._thread.join(max(0.0, deadline - time.monotonic()))
            if self._thread.is_alive():
                self._give_up("it does not finish in time")

    def _run(self) -> None:
        tracker: Tracker | None = None
        try:
            while not isinstance(item := self._waiting.get(), bool):
                tracker = tracker or self._open()
                tracker.log(values_of(item), item["step"])
            if tracker is not None:
                tracker.close(succeeded=item)
        except Exception as error:  # noqa: BLE001 - any failure of any tracker, but never the run's
            self._give_up(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")

    def _open(self) -> Tracker:
        for variable, value in _SILENCE.items():
            os.environ.setdefault(variable, value)
        tracker, missing = _OPENERS[self._name](self._about, self._past)
        for earlier in missing:
            tracker.log(values_of(earlier), earlier["step"])
        return tracker

    def _give_up(self, reason: str) -> None:
        if not self._is_given_up:
            self._is_given_up = True
            logger.warning(
                "tracker %s failed and is left alone, the run goes on: %s", self._name, reason
            )


class _TensorBoard:
    """Event files in logs/, flushed with every record."""

    def __init__(self, folder: Path, *, purge_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def log(self, values: dict[str, float], step: int) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)
        self._writer.flush()

    def close(self, *, succeeded: bool) -> None:  # noqa: ARG002
        self._writer.close()


def _open_tensorboard(about: Tracked, past: list[Record]) -> tuple[Tracker, list[Record]]:
    """The writer, and the records of `past` that it still has to write.

    An earlier attempt may have gone beyond the checkpoint that this one continues from: its events
    are void from the last step of `past` on, and what still holds of that step is written again.
    """
    folder = about.run.path / "logs"
    if not (folder.is_dir() and any(folder.glob("events.out.tfevents.*"))):
        return _TensorBoard(folder, purge_step=None), past
    last = max((record["step"] for record in past), default=0)
    missing = [record for record in past if record["step"] == last]
    return _TensorBoard(folder, purge_step=last), missing


class _OnlyForward:
    """For trackers that can only append: what an attempt before this one sent is not sent again."""

    def __init__(self, name: str, about: Tracked, tracker: Tracker) -> None:
        self._name, self._about, self._tracker = name, about, tracker
        self._sent: dict[str, int] = dict(_noted(about).get(name, {}).get("sent", {}))

    def log(self, values: dict[str, float], step: int) -> None:
        new = {tag: value for tag, value in values.items() if self._sent.get(tag, -1) < step}
        if not new:
            return
        self._sent |= dict.fromkeys(new, step)
        # Noted first: a kill between the two may lose one point, but never sends one twice.
        _note(self._about, self._name, sent=self._sent)
        self._tracker.log(new, step)

    def close(self, *, succeeded: bool) -> None:
        self._tracker.close(succeeded=succeeded)


def _host() -> str:
    """Tells machines apart and names none."""
    return sha256(socket.gethostname().encode()).hexdigest()[:8]


class _WandB:
    """A run of W&B, offline unless the user chose otherwise."""

    def __init__(self, about: Tracked, identity: str) -> None:
        import wandb

        # Only the records: no console, code, machine statistics or list of packages.
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
            disable_job_creation=True,
            x_disable_stats=True,
            x_disable_meta=True,
            # Else it sends the name of this machine.
            host=_host(),
        )
        has_key = bool(os.environ.get("WANDB_API_KEY"))
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if has_key else "offline")
        self._run = wandb.init(
            project=about.study,
            id=identity,
            name=about.label,
            group=about.group,
            config=about.config,
            dir=str(about.run.path),
            resume="allow",
            mode=mode,
            settings=settings,
        )

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def close(self, *, succeeded: bool) -> None:
        self._run.finish(exit_code=0 if succeeded else 1)


class _Without:
    """Standard output without what one thread prints."""

    def __init__(self, output: TextIO) -> None:
        self._output, self._thread = output, current_thread()

    def write(self, text: str) -> int:
        return len(text) if current_thread() is self._thread else self._output.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._output, name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what this thread prints; others print as before."""
    before = sys.stdout
    sys.stdout = _Without(before)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        sys.stdout = before


class _Trackio:
    """A run of Trackio in a database of the study."""

    def __init__(self, about: Tracked, identity: str) -> None:
        # Read when the package is imported; `trackio show` needs the same variable.
        os.environ.setdefault("TRACKIO_DIR", str((about.common / "trackio").absolute()))
        import trackio  # pyright: ignore[reportMissingImports]

        # It prints how to show the records, but without the folder that they are in.
        with _quiet():
            self._run = trackio.init(
                project=about.study,
                name=identity,
                group=about.group,
                config=about.config,
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def close(self, *, succeeded: bool) -> None:  # noqa: ARG002
        with _quiet():
            self._run.finish()


class _MlFlow:
    """A run of MLflow in files of the study, or on the user's own server."""

    def __init__(self, about: Tracked, run_id: str | None) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            # mlflow-skinny has no database; it keeps files only for those who say that they know.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (about.common / "mlflow").absolute().as_uri()
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

        self._client = MlflowClient(tracking_uri=uri)
        self.run_id = run_id or self._create(about)
        self._client.update_run(self.run_id, status="RUNNING")

    def _create(self, about: Tracked) -> str:
        found = self._client.get_experiment_by_name(about.study)
        experiment = found.experiment_id if found else self._client.create_experiment(about.study)
        run = self._client.create_run(experiment, run_name=about.label)
        for section in ("train", "model"):
            for key, value in about.config[section].items():
                self._client.log_param(run.info.run_id, f"{section}.{key}", value)
        self._client.log_param(run.info.run_id, "seed", about.config["seed"])
        return run.info.run_id

    def log(self, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now = int(time.time() * 1000)
        self._client.log_batch(
            self.run_id, metrics=[Metric(tag, value, now, step) for tag, value in values.items()]
        )

    def close(self, *, succeeded: bool) -> None:
        self._client.set_terminated(self.run_id, status="FINISHED" if succeeded else "KILLED")


def _open_wandb(about: Tracked, past: list[Record]) -> tuple[Tracker, list[Record]]:
    return _OnlyForward("wandb", about, _WandB(about, _identity(about, "wandb"))), past


def _open_trackio(about: Tracked, past: list[Record]) -> tuple[Tracker, list[Record]]:
    return _OnlyForward("trackio", about, _Trackio(about, _identity(about, "trackio"))), past


def _open_mlflow(about: Tracked, past: list[Record]) -> tuple[Tracker, list[Record]]:
    tracker = _MlFlow(about, _noted(about).get("mlflow", {}).get("id"))
    _note(about, "mlflow", id=tracker.run_id)
    return _OnlyForward("mlflow", about, tracker), past


_OPENERS: dict[str, Callable[[Tracked, list[Record]], tuple[Tracker, list[Record]]]] = {
    "tensorboard": _open_tensorboard,
    "wandb": _open_wandb,
    "trackio": _open_trackio,
    "mlflow": _open_mlflow,
}


def _identity(about: Tracked, name: str) -> str:
    """The run's id there: the same after a resume, another one after `--restart`."""
    known = _noted(about).get(name, {}).get("id")
    if known is None:
        known = f"{about.run.run_id}-{secrets.token_hex(3)}"
        _note(about, name, id=known)
    return known


def _noted(about: Tracked) -> dict[str, dict[str, Any]]:
    return read_json(about.note) if about.note.is_file() else {}


def _note(about: Tracked, name: str, **facts: Any) -> None:
    with _notes:
        content = _noted(about)
        write_json(about.note, {**content, name: {**content.get(name, {}), **facts}})
