"""What a study file may say, with types, ranges and defaults. Unknown keys are errors."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from regatta.config.fusion import FusionSection
from regatta.config.launch import LaunchSection
from regatta.config.partition import PartitionSection
from regatta.config.section import Section
from regatta.config.train_section import TrainSection

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


MANY_PROCESSES = ("ddp", "fsdp")
"""Values of `train.parallel` with which several processes share one run."""
IMPORTED = "imported"
"""The model of an entry whose predictions were made elsewhere and imported; also the source and the
protocol of a study that has no other entries."""


class DataSection(Section):
    """Where the samples come from and how they are split."""

    source: str
    root: str | None = None
    """Folder with the files. Generated sources write there; default `data/<source>` beside the
    working folder."""
    split: int = Field(default=1, ge=1)
    """Which published split, for sources that have several (UCF-101: 1-3)."""
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training list that is held out by group for selection, when the source gives no
    validation."""
    split_seed: int = Field(default=42, ge=0)
    damaged: Literal["fail", "drop"] = "fail"
    """What a truncated, unreadable or empty file does: stop, or be left out of every entry and
    listed."""
    short: Literal["pad", "drop", "fail"] = "pad"
    """What a clip with fewer frames than the model needs does; each case is counted in the
    report."""
    max_train_samples: int | None = Field(default=None, ge=1)
    design: Literal["official", "loso", "subject-kfold", "window-random"] = "official"
    """Who is trained on and who judged. official = the source's own split; loso = one fold per
    group, judged alone; subject-kfold = `folds` folds of groups; window-random = samples at random,
    which leaks: neighbours overlap. The last three are for sources of signals."""
    folds: int | None = Field(default=None, ge=2, le=1000)
    """Folds of loso (the number of groups) and subject-kfold (5); every entry trains once per
    fold."""
    validation_groups: int | None = Field(default=None, ge=1)
    """Groups held out for selection, instead of validation_fraction. None = 4 for official and 3
    for loso in sources of signals."""
    unknown_classes: list[str] = []
    """Classes kept from every model, whose test samples are judged as unknown; for sources of
    signals with a single split."""
    decoder: Literal["pyav", "torchcodec"] = "pyav"
    options: dict[str, Any] = {}
    """Settings of the source itself; see `regatta ls sources`."""

    @model_validator(mode="after")
    def _folds_fit_design(self) -> DataSection:
        has_folds = self.design in ("loso", "subject-kfold")
        if self.folds is not None and not has_folds:
            raise ValueError(f"folds is for loso and subject-kfold, not for {self.design}")
        if self.folds is None and self.design == "loso":
            # The list of runs is made before the data are read.
            raise ValueError("design loso needs folds: the number of subjects")
        if self.unknown_classes and has_folds:
            raise ValueError("unknown_classes is for a single split")
        if self.max_train_samples is not None and has_folds:
            raise ValueError("max_train_samples is for a single split; use train.label_fraction")
        return self


class EntrySection(Section):
    """One model with its settings. A bare name in the list means a model with all defaults."""

    name: Name
    model: str
    size: Literal["tiny", "small", "base"] = "base"
    checkpoint: str = "default"
    """`default` = the published one, `none` = random init, else a hub id (`org/name@revision`) or a
    local folder."""
    options: dict[str, Any] = {}
    """Settings of the model itself (frames, image_size ...); see `regatta ls models`."""
    train: dict[str, Any] = {}
    """Keys of `train:` that this entry overrides; the report's budget ledger shows the
    difference."""
    needs: list[str] = []
    """Entries whose runs, of the same seed and fold, must be trained before this one starts."""
    part: str | None = None
    """Part of the training images that this entry trains on, where the study has a `partition:`;
    None = all of them."""
    role: Literal["contender", "expert", "baseline"] = "contender"
    """expert = a part of others, judged but not compared with everybody; baseline = what a system
    is set against."""

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value, "model": value}
        if isinstance(value, dict) and "name" not in value and isinstance(value.get("model"), str):
            return {**value, "name": value["model"]}
        return value

    @property
    def is_imported(self) -> bool:
        """Whether its predictions come from elsewhere: it is never trained and never judged."""
        return self.model == IMPORTED


class ProtocolSection(Section):
    """How every entry is judged."""

    name: str = "plain"
    batch_size: int = Field(default=16, ge=1)
    """Clips per forward pass; short batches are filled up so that results never depend on
    grouping."""
    split: Literal["test", "validation"] = "test"
    sample_size: int | None = Field(default=None, ge=1)
    """Judge a seeded, class-stratified subset of this many samples; None = all."""
    sample_seed: int = Field(default=0, ge=0)
    part_samples: int = Field(default=16, ge=1)
    """Samples per prediction file: the unit that an interrupted judging resumes at."""
    resize: Literal["crop", "squash"] = "crop"
    motion_samples: int = Field(default=4, ge=0)
    """Samples per class whose motion spectrum is measured beside a temporal protocol; 0 = none."""
    film_samples: int = Field(default=4, ge=0, le=16)
    """Videos whose pictures are kept, as the models saw them, for the film-strips of the report:
    one of each class in a seeded order; 0 = none."""
    options: dict[str, Any] = {}
    """Settings of the protocol itself; see `regatta ls protocols`."""


class CompareSection(Section):
    """How the entries are compared."""

    replicates: int = Field(default=10_000, ge=100)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    correction: Literal["holm", "bonferroni", "bh", "tukey", "none"] = "holm"
    """Of p-values over their family. bh (Benjamini and Hochberg) bounds the share of false claims,
    not the chance of any; tukey is for pairs of entries at one condition, other families: holm."""
    equivalence_margin_points: float = Field(default=1.0, gt=0)
    condition: str = "reference"
    """Condition of the headline verdict; `reference` = the protocol's own."""
    seed: int = Field(default=0, ge=0)
    tuning_trials: dict[str, Annotated[int, Field(ge=1)]] = {}
    """How many recipes were tried for an entry before this one was settled on, by entry name, as
    the study's author states it; for the budget ledger."""
    mix_protocols: bool = False
    """Let predictions meet that were judged differently, or nobody knows how (imported ones); every
    difference is then named beside the verdict."""


class ProfileSection(Section):
    """What `regatta profile` measures of every entry, on one device."""

    stages: list[Literal["load", "encode", "forward", "backward", "step", "sweep"]] = Field(
        default=["load", "encode", "forward", "backward", "step", "sweep"], min_length=1
    )
    """load = the training loader; encode = the pass of a frozen encoder whose features are cached;
    forward = as in judging; backward = of the loss alone; step = a whole optimizer step; sweep =
    steps of growing batches until memory ends."""
    batch_sizes: list[Annotated[int, Field(ge=1)]] = Field(
        default=[8, 16, 32, 64, 128, 256], min_length=1
    )
    """Of the sweep. The other stages use train.batch_size."""
    precisions: list[Literal["fp32", "bf16", "fp16"]] | None = Field(default=None, min_length=1)
    """Number formats of every stage. None = all that the device has, and the recipe's own for the
    sweep."""
    warmup: int = Field(default=10, ge=0)
    """Calls before the timed ones."""
    timed: int = Field(default=100, ge=1)
    """Timed calls."""
    seconds: float = Field(default=20.0, gt=0)
    """Most seconds that one measurement takes; at least three calls are timed all the same."""


class Study(Section):
    """One study file."""

    name: Name
    title: str = ""
    data: DataSection
    partition: PartitionSection | None = None
    """How the training images are dealt out to experts and to their fusion; a bare word is its
    kind."""
    fusion: FusionSection | None = None
    """Experts, fusions and single networks that become entries."""
    entries: list[EntrySection] = Field(min_length=1)
    seeds: list[int] = Field(default=[0], min_length=1)
    train: TrainSection = TrainSection()
    protocol: ProtocolSection = ProtocolSection()
    compare: CompareSection = CompareSection()
    launch: LaunchSection = LaunchSection()
    profile: ProfileSection = ProfileSection()

    @field_validator("partition", mode="before")
    @classmethod
    def _bare_kind(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _loss_of_all(cls, value: Any) -> Any:
        """`loss:` at the top is train.loss."""
        if not isinstance(value, dict) or "loss" not in value:
            return value
        rest = {key: held for key, held in value.items() if key != "loss"}
        train = rest.get("train") or {}
        if not isinstance(train, dict):
            return rest
        if "loss" in train:
            raise ValueError("loss stands at the top and in train: keep one")
        return {**rest, "train": {**train, "loss": value["loss"]}}

    @property
    def trained_entries(self) -> list[EntrySection]:
        """Entries that are trained and judged here; the others were imported."""
        return [entry for entry in self.entries if not entry.is_imported]

    @model_validator(mode="before")
    @classmethod
    def _several_devices(cls, value: Any) -> Any:
        """Several devices for one run mean ddp where nothing is said of train.parallel; a spoken
        `none` is left alone, and refused by the plan."""
        train, launch = (
            (value.get(key) or {} for key in ("train", "launch"))
            if isinstance(value, dict)
            else (None, None)
        )
        if not isinstance(train, dict) or not isinstance(launch, dict) or "parallel" in train:
            return value
        counts = [launch.get(key) for key in ("devices", "nodes")]
        if any(isinstance(count, int | float) and count > 1 for count in counts):
            return {**value, "train": {**train, "parallel": "ddp"}}
        return value

    @field_validator("entries")
    @classmethod
    def _distinct_entries(cls, entries: list[EntrySection]) -> list[EntrySection]:
        names = [entry.name for entry in entries]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"entry names must differ; used twice: {', '.join(twice)}")
        return entries

    @model_validator(mode="after")
    def _trials_of_known_entries(self) -> Study:
        names = {entry.name for entry in self.entries}
        unknown = sorted(set(self.compare.tuning_trials) - names)
        if unknown:
            raise ValueError(f"compare.tuning_trials names no entry: {', '.join(unknown)}")
        return self

    @model_validator(mode="after")
    def _entries_that_can_start(self) -> Study:
        entries = {entry.name: entry for entry in self.entries}
        for entry in self.entries:
            for name in entry.needs:
                if name not in entries:
                    raise ValueError(f"entries.{entry.name}.needs names no entry: {name}")
                if entries[name].is_imported or entry.is_imported:
                    raise ValueError(
                        f"entries.{entry.name}.needs: what was imported has no training to wait for"
                    )
        _order_of_needs({entry.name: entry.needs for entry in self.entries})
        return self

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds) or any(seed < 0 for seed in seeds):
            raise ValueError("seeds must be distinct and not negative")
        return seeds


def _order_of_needs(needs: dict[str, list[str]]) -> None:
    """ValueError when entries wait for each other in a circle; names it."""
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise ValueError(f"entries need each other in a circle: {circle}") from error
