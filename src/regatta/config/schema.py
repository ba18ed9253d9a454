"""What a study file may say, with types, ranges and defaults. Unknown keys are errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Base of all sections: frozen, and no key passes unread."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_section(cls, value: Any) -> Any:
        """A section whose keys are all commented out reads as nothing: it means all defaults."""
        return {} if value is None else value


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
    decoder: Literal["pyav", "torchcodec"] = "pyav"
    options: dict[str, Any] = {}
    """Settings of the source itself; see `regatta ls sources`."""


class TrainSection(Section):
    """The recipe, the same for every entry unless an entry overrides a key."""

    epochs: int = Field(default=5, ge=0)
    batch_size: int = Field(default=8, ge=1)
    """Clips per device and step."""
    accumulate: int = Field(default=1, ge=1)
    lr: float = Field(default=1e-5, gt=0)
    head_lr_factor: float = Field(default=10.0, gt=0)
    """The new classifier head learns at lr times this; 1 when nothing is pretrained."""
    weight_decay: float = Field(default=0.05, ge=0)
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of all optimizer steps with linear warm-up; cosine to min_lr_fraction follows."""
    min_lr_fraction: float = Field(default=0.0, ge=0, le=1)
    clip_norm: float | None = Field(default=1.0, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    augment: Literal["none", "standard"] = "standard"
    """standard = temporal jitter, random resized crop and flip; none = one fixed uniform clip."""
    flip: bool = True
    """Mirror at random; switch off where left and right, or the sense of rotation, carry the
    class."""
    crop_scale_min: float = Field(default=0.5, gt=0, le=1)
    """Smallest share of the picture area that a random resized crop keeps."""
    temporal_probability: float = Field(default=0.0, ge=0, le=1)
    """Chance that a training clip is drawn from the grid below instead of the whole clip: the model
    then meets the rates and lengths that it is judged at."""
    temporal_coverage: list[Annotated[int, Field(ge=1, le=100)]] = Field(
        default=[10, 25, 50, 75, 100], min_length=1
    )
    """Coverages in percent that such a clip draws from; its window may lie anywhere."""
    temporal_stride: list[Annotated[int, Field(ge=1)]] = Field(
        default=[1, 2, 4, 8, 16], min_length=1
    )
    """Strides in source frames that such a clip draws from."""
    temporal_box_probability: float = Field(default=0.0, ge=0, le=1)
    """Chance that such a clip shows the mean of each stride's frames instead of one of them."""
    gradient_checkpointing: bool = False
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Epochs without a better validation score before training ends; None = never."""
    nonfinite: Literal["stop", "skip"] = "stop"
    nonfinite_limit: int = Field(default=3, ge=0)
    parallel: Literal["none", "ddp"] = "none"
    checkpoint_every_steps: int | None = Field(default=None, ge=1)
    """Also write a resume point every so many optimizer steps; one is always written per epoch."""
    log_every_steps: int = Field(default=10, ge=1)
    loader_threads: int = Field(default=1, ge=0)
    frame_cache_gib: float = Field(default=1.0, ge=0)
    """Decoded training frames kept in memory, per process; 0 = decode anew every epoch."""
    deterministic: bool = True
    compile: bool = False


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

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value, "model": value}
        if isinstance(value, dict) and "name" not in value and isinstance(value.get("model"), str):
            return {**value, "name": value["model"]}
        return value


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
    options: dict[str, Any] = {}
    """Settings of the protocol itself; see `regatta ls protocols`."""


class CompareSection(Section):
    """How the entries are compared."""

    replicates: int = Field(default=10_000, ge=100)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    correction: Literal["holm", "bonferroni", "none"] = "holm"
    equivalence_margin_points: float = Field(default=1.0, gt=0)
    condition: str = "reference"
    """Condition of the headline verdict; `reference` = the protocol's own."""
    seed: int = Field(default=0, ge=0)


class LaunchSection(Section):
    """Where and how the runs are started."""

    on: Literal["local"] = "local"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    device_ids: list[int] | None = None
    """GPU indices to use; None = all visible."""
    devices: Annotated[float, Field(gt=0)] = 1
    """Devices per run: 1, 4 (with train.parallel: ddp), or a share (0.25 = four runs on one
    GPU)."""
    max_parallel: int | None = Field(default=None, ge=1)
    """Most runs at once; None = one per GPU share, or one per CPU core on a machine without (with
    `share` at least one per entry)."""
    threads_per_run: int | None = Field(default=None, ge=1)
    """CPU threads of one run; None = cores divided by parallel runs. Recorded, and kept on
    resume."""
    retries: int = Field(default=2, ge=0)
    """Restarts from the last checkpoint after a crash or stall, per run."""
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


class Study(Section):
    """One study file."""

    name: Name
    title: str = ""
    data: DataSection
    entries: list[EntrySection] = Field(min_length=1)
    seeds: list[int] = Field(default=[0], min_length=1)
    train: TrainSection = TrainSection()
    protocol: ProtocolSection = ProtocolSection()
    compare: CompareSection = CompareSection()
    launch: LaunchSection = LaunchSection()

    @field_validator("entries")
    @classmethod
    def _distinct_entries(cls, entries: list[EntrySection]) -> list[EntrySection]:
        names = [entry.name for entry in entries]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"entry names must differ; used twice: {', '.join(twice)}")
        return entries

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds) or any(seed < 0 for seed in seeds):
            raise ValueError("seeds must be distinct and not negative")
        return seeds
