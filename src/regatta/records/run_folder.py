"""Where everything of a study lies on disk. Paths only, plus the few facts that make a folder ours.

runs/<study>/
  study.yaml  manifest.parquet  data.json  motion.json  prepare.json  lease.json
  windows.safetensors  images.safetensors  scenes/  splits/  features/  film/<protocol-id>/
  supervisor.log  prepare.log  judge-N.log  compare.log  report.log
  runs/<run-id>/  run.json  inputs.json  status.json  metrics.jsonl  log.txt
                  weights.json  label_indices.csv  training_results.json
                  checkpoints/  model/  predictions/<protocol-id>/
  results/  report/
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regatta.config.expand import RunSpec, expand_study, trained_runs
from regatta.config.load import dump_study, load_study
from regatta.config.schema import Study
from regatta.core.errors import DiskError, ForeignFolderError, RecordError
from regatta.core.files import (
    PARTIAL_SUFFIX,
    ensure_writable,
    existing_parent,
    read_json_object,
    write_json,
    write_text,
)
from regatta.records.lease import refuse_if_held, study_lease


@dataclass(frozen=True)
class RunFolder:
    """One run's folder."""

    path: Path

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def run_json(self) -> Path:
        return self.path / "run.json"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def inputs(self) -> Path:
        """Hash of the manifest that the run began with."""
        return self.path / "inputs.json"

    @property
    def weights(self) -> Path:
        """What became of every key of the checkpoint that the run started from."""
        return self.path / "weights.json"

    @property
    def label_indices(self) -> Path:
        """The training samples that `train.label_fraction` left, when it is below 1."""
        return self.path / "label_indices.csv"

    @property
    def training_results(self) -> Path:
        """Written last by training: its presence means that `model/` is complete."""
        return self.path / "training_results.json"

    def predictions(self, protocol: str) -> Path:
        return self.path / "predictions" / protocol

    @property
    def progress_text(self) -> Path:
        """A line per epoch, for people."""
        return self.path / "PROGRESS.txt"

    def is_trained(self) -> bool:
        return self.training_results.is_file()

    def is_judged(self, protocol: str) -> bool:
        return (self.predictions(protocol) / "complete.json").is_file()

    def info(self) -> dict[str, Any]:
        return read_json_object(self.run_json)


@dataclass(frozen=True)
class StudyFolder:
    """One study's folder, `runs/<name>`."""

    path: Path

    @property
    def study_yaml(self) -> Path:
        return self.path / "study.yaml"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.parquet"

    @property
    def windows(self) -> Path:
        """Signals of all windows, where the source gives signals."""
        return self.path / "windows.safetensors"

    @property
    def images(self) -> Path:
        """The images of all splits, and the parts of those that are trained on."""
        return self.path / "images.safetensors"

    @property
    def scenes(self) -> Path:
        """Pictures and tracks of all scenes, and what judging found out about them."""
        return self.path / "scenes"

    @property
    def splits(self) -> Path:
        """Lists of the images of each part of a partition."""
        return self.path / "splits"

    @property
    def features(self) -> Path:
        """Features of frozen encoders, computed once for all runs."""
        return self.path / "features"

    @property
    def data_json(self) -> Path:
        """What the scan found: counts per split and class, dropped files with reasons, manifest
        hash."""
        return self.path / "data.json"

    @property
    def motion_json(self) -> Path:
        """Motion spectrum of each class, where it was measured."""
        return self.path / "motion.json"

    def film(self, protocol: str) -> Path:
        """What the models saw of a few samples, as film-strips."""
        return self.path / "film" / protocol

    @property
    def lease(self) -> Path:
        return self.path / "lease.json"

    @property
    def submission(self) -> Path:
        """Which jobs of a cluster's scheduler work on the study."""
        return self.path / "submission.json"

    @property
    def supervisor_log(self) -> Path:
        return self.path / "supervisor.log"

    @property
    def prepare_status(self) -> Path:
        """Status of the task that reads the data, while it works and after."""
        return self.path / "prepare.json"

    @property
    def prepare_log(self) -> Path:
        return self.path / "prepare.log"

    @property
    def results(self) -> Path:
        return self.path / "results"

    @property
    def report(self) -> Path:
        return self.path / "report"

    def run(self, run_id: str) -> RunFolder:
        return RunFolder(self.path / "runs" / run_id)

    def study(self) -> Study:
        """The resolved study that this folder belongs to; ForeignFolderError when it is no study
        folder."""
        if not self.study_yaml.is_file():
            raise ForeignFolderError(
                "this is not a study folder: it has no study.yaml",
                where=self.path,
                hint="name a folder under runs/, or start one with: regatta run study.yaml",
            )
        return load_study(self.study_yaml)

    def runs(self) -> list[tuple[RunSpec, RunFolder]]:
        """Every run of the resolved study with its folder, started or not."""
        return [(spec, self.run(spec.run_id)) for spec in expand_study(self.study())]


def open_study(runs_root: Path, study: Study) -> StudyFolder:
    """Create or reopen the folder of `study` and write the resolved study and each run's facts;
    errors as of `held_study`."""
    with held_study(runs_root, study) as folder:
        return folder


@contextmanager
def held_study(runs_root: Path, study: Study) -> Iterator[StudyFolder]:
    """`open_study`, with the study's lease from before the first write to the end of the block.

    Its workers read study.yaml when they start: of two launches with different settings only the
    one that runs them may write it.

    Raises:
        ForeignFolderError: the folder holds another study, or something else.
        LeaseHeldError: another process is running this study; nothing was written.
        DiskError: the folder cannot be written.
    """
    folder = StudyFolder(Path(runs_root) / study.name)
    check_ours(folder, study)
    refuse_if_held(folder.lease)
    ensure_writable(folder.path)
    with study_lease(folder.lease):
        write_text(folder.study_yaml, dump_study(study))
        for spec in trained_runs(study):
            _open_run(folder.run(spec.run_id), spec)
        yield folder


def check_ours(folder: StudyFolder, study: Study) -> None:
    """Refuse a place where `study` cannot have its folder; writes nothing.

    Raises:
        ForeignFolderError: another study, or something else, is there.
        DiskError: a file is in the way.
    """
    hint = "choose another --runs folder or another name: in the study file"
    if folder.study_yaml.is_file():
        other = folder.study().name
        if other != study.name:
            raise ForeignFolderError(
                f"this folder holds the study '{other}', not '{study.name}'",
                where=folder.path,
                hint=hint,
            )
        return
    place = existing_parent(folder.path)
    if not place.is_dir():
        raise DiskError("a file stands where a folder is needed", where=place, hint=hint)
    if place == folder.path.absolute() and any(map(_is_foreign, folder.path.iterdir())):
        raise ForeignFolderError(
            "this folder is not empty and is not a study of ours", where=folder.path, hint=hint
        )


def _is_foreign(path: Path) -> bool:
    """A launch that was killed before its study file stood leaves nothing but its lease and what
    it was about to write."""
    is_partial = path.name.startswith(".") and path.name.endswith(PARTIAL_SUFFIX)
    return not is_partial and not path.name.lstrip(".").startswith("lease.json")


def _open_run(run: RunFolder, spec: RunSpec) -> None:
    if run.run_json.is_file():
        found = run.info().get("content_hash")
        if found != spec.content_hash:
            raise RecordError(
                "this run folder was made with other settings",
                where=run.path,
                hint=f"hash {found}, not {spec.content_hash}; move it away or rename the study",
            )
        return
    write_json(
        run.run_json,
        {
            "run_id": spec.run_id,
            "entry": spec.entry.name,
            "model": spec.entry.model,
            "size": spec.entry.size,
            "checkpoint": spec.entry.checkpoint,
            "seed": spec.seed,
            "fold": spec.fold,
            "content_hash": spec.content_hash,
            "train": spec.train.model_dump(mode="json"),
        },
    )
