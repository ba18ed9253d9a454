"""What a model declares about itself, and how an entry of a study becomes one.

Shapes: B samples, T frames, 3 colours, H = W = image_size, K classes; C channels and L samples of a
window of signals.
Importing this file loads torch but not transformers: a model imports that when it builds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from regatta.config.options import typed_options
from regatta.config.schema import EntrySection
from regatta.core.errors import ConfigError, RunError
from regatta.core.registry import MODELS
from regatta.core.seeds import derive_seed
from regatta.models.encoder_files import EncoderFiles
from regatta.models.hub import PROCESSOR_FILES, checkpoint_folder, read_normalisation

Size = Literal["tiny", "small", "base"]
Kind = Literal["video", "image", "signal", "scene"]
Colours = tuple[float, ...]
FROM_DATA = ("channels", "length")
"""Arguments of models of signals that the data set fills: C and L of its windows."""
State = dict[str, torch.Tensor]
CIFAR100_MEAN: Colours = (0.5071, 0.4865, 0.4409)
CIFAR100_STD: Colours = (0.2673, 0.2564, 0.2762)
IMAGENET_MEAN: Colours = (0.485, 0.456, 0.406)
IMAGENET_STD: Colours = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class CheckpointLayout:
    """How files of this model on disk differ from the module that we hold in memory."""

    prefix: str = ""
    """Stands before every key of the module's state dict, and in no file."""
    load_names: tuple[tuple[str, str], ...] = ()
    """(part of a published key, part of the module's key), replaced in this order while loading."""
    save_names: tuple[tuple[str, str], ...] = ()
    """(part of the module's key, part of the written key), replaced in this order while saving."""
    without_effect: tuple[str, ...] = ()
    """Endings of published keys that cannot change any output; the module has no place for them."""
    unused: tuple[str, ...] = ()
    """Prefixes of module keys that no classification uses; a file may hold others, or none."""
    reusable_head: tuple[str, ...] = ()
    """Head prefixes that fit any classes: taken from a file that has them, else new."""
    architecture: dict[str, Any] = field(default_factory=dict)
    """What the checkpoint's config.json must agree with: shapes alone do not betray all of it."""
    fit_positions: Callable[[State, dict[str, Any]], dict[str, str]] | None = None
    """Resizes position embeddings in the state (module keys) given the checkpoint's config.json;
    returns key -> what was done."""
    processor: dict[str, Any] = field(default_factory=dict)
    """Extra keys of preprocessor_config.json."""
    config_optional: bool = False
    """Published files have no config.json, and shapes alone betray every other architecture."""
    encoder: EncoderFiles | None = None
    """Files may hold the encoder alone: what lies outside it is then new, as a head is."""
    allow_keys: tuple[str, ...] = ()
    """Patterns of keys that may be missing, extra or of another shape."""


@dataclass(frozen=True)
class ModelSpec:
    """A model as the rest of Regatta sees it.

    `build(num_classes)` gives a module on the CPU with random weights whose forward returns logits
    [B, K]. Of kind video it takes normalised clips [B, T, 3, H, W]; of kind image normalised images
    [B, 3, H, W], and it may return logits [B, 1 + E, K] of several heads
    (`regatta.models.contracts.HasHeads`); of kind scene normalised [B, V, T, 3, H, W], and it
    returns positions beside the logits (`HasPositions`); of kind signal it takes raw
    windows float32 [B, C, L] in their own units, and standardises or draws them itself. What a
    module of signals may offer beside forward stands in `regatta.models.contracts`.
    """

    name: str
    frames: int
    image_size: int
    mean: Colours
    std: Colours
    resize: Literal["crop", "squash"]
    default_checkpoint: str | None
    build: Callable[[int], nn.Module]
    head_prefixes: tuple[str, ...]
    """Prefixes, in the module's state dict, of the layers that are new for new classes."""
    config: dict[str, Any]
    """JSON: name, size and every option; enough to build the same model again."""
    layout: CheckpointLayout = CheckpointLayout()
    pretrained: bool = False
    """The backbone starts from a checkpoint."""
    kind: Kind = "video"
    shape: tuple[int, ...] = ()
    """Of one sample, where it is no clip: (C, L)."""
    window: tuple[int, int] | None = None
    """(C, L) of the data that it was built for, for models of signals."""
    reads: Literal["signals", "features"] = "signals"
    """Which of a window's arrays a model of signals takes."""
    is_always_new: bool = False
    """No checkpoint of it was ever published: `checkpoint: default` means random weights."""
    views: tuple[int, ...] = ()
    """Cameras whose pictures a model of scenes takes."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample, as forward takes it behind the batch."""
        if self.kind == "video":
            return (self.frames, 3, self.image_size, self.image_size)
        if self.kind == "image":
            return (3, self.image_size, self.image_size)
        if self.kind == "scene":
            return (len(self.views), self.frames, 3, self.image_size, self.image_size)
        return self.shape

    @property
    def input_words(self) -> str:
        """One sample in words, for messages."""
        if self.kind == "video":
            return f"{self.frames} frames at {self.image_size} x {self.image_size} pixels"
        if self.kind == "image":
            return f"an image of {self.image_size} x {self.image_size} pixels"
        if self.kind == "scene":
            clip = f"{self.frames} frames at {self.image_size} x {self.image_size} pixels"
            return f"{clip} from {len(self.views)} camera(s)"
        if self.reads == "features":
            return f"{self.shape[0]} features"
        return f"{self.shape[0]} channels of {self.shape[1]} samples"


def signal_spec(
    name: str,
    build: Callable[[int], nn.Module],
    *,
    channels: int,
    length: int,
    config: dict[str, Any],
    head_prefixes: tuple[str, ...] = ("head.",),
    default_checkpoint: str | None = None,
    layout: CheckpointLayout = CheckpointLayout(),
    is_always_new: bool = True,
) -> ModelSpec:
    """The spec of a model of windows [C, L]; pictures play no part in it."""
    return ModelSpec(
        name=name,
        frames=length,
        image_size=0,
        mean=(),
        std=(),
        resize="crop",
        default_checkpoint=default_checkpoint,
        build=build,
        head_prefixes=head_prefixes,
        config=config,
        layout=layout,
        kind="signal",
        shape=(channels, length),
        window=(channels, length),
        is_always_new=is_always_new,
    )


def image_spec(
    name: str,
    build: Callable[[int], nn.Module],
    *,
    image_size: int,
    config: dict[str, Any],
    head_prefixes: tuple[str, ...] = ("head.",),
) -> ModelSpec:
    """The spec of a model of small images; the run puts mean and sd of its data in the place of
    CIFAR-100's."""
    return ModelSpec(
        name=name,
        frames=1,
        image_size=image_size,
        mean=CIFAR100_MEAN,
        std=CIFAR100_STD,
        resize="squash",
        default_checkpoint=None,
        build=build,
        head_prefixes=head_prefixes,
        config=config,
        kind="image",
        is_always_new=True,
    )


def scene_spec(
    name: str,
    build: Callable[[int], nn.Module],
    *,
    frames: int,
    image_size: int,
    views: Sequence[int],
    config: dict[str, Any],
    head_prefixes: tuple[str, ...] = ("heads.",),
) -> ModelSpec:
    """The spec of a model of scenes: normalised floats [B, V, T, 3, H, W] -> [B, K + 3 P], see
    `regatta.models.contracts.HasPositions`.

    The same constants stand for mean and sd of all data: pictures are drawn by one generator.
    """
    return ModelSpec(
        name=name,
        frames=frames,
        image_size=image_size,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        resize="squash",
        default_checkpoint=None,
        build=build,
        head_prefixes=head_prefixes,
        config=config,
        kind="scene",
        is_always_new=True,
        views=tuple(views),
    )


def resolve_model(
    entry: EntrySection,
    num_classes: int,
    *,
    seed: int,
    window: tuple[int, int] | None = None,
) -> ModelSpec:
    """The spec of an entry, with its options checked and its weights' own normalisation.

    `spec.build` draws the random weights from the stream (seed, "init"): the same for every call,
    whatever else has used torch's generator, and leaves that generator as it was.

    Args:
        window: (channels, samples) of the data set's windows; None for videos.
    Raises:
        ConfigError: unknown model or option, a wrong type, fewer than two classes, or no default
            checkpoint for this size.
        WeightsError, EnvironmentFault: the checkpoint's processor file cannot be had.
    """
    where = f"entries.{entry.name}"
    if num_classes < 2:
        raise ConfigError(f"a classifier needs at least 2 classes, not {num_classes}", where=where)
    spec = make_spec(entry.model, entry.size, entry.options, window=window, where=where)
    is_new = starts_at_random(spec, entry.checkpoint)
    spec = replace(spec, build=seeded_build(spec.build, seed), pretrained=not is_new)
    if is_new:
        return spec
    if entry.checkpoint == "default":
        check_default_checkpoint(spec, where=where)
        return spec
    return _with_normalisation(spec, entry.checkpoint)


def starts_at_random(spec: ModelSpec, checkpoint: str) -> bool:
    """Whether an entry with this `checkpoint:` has random first weights."""
    return checkpoint == "none" or (checkpoint == "default" and spec.is_always_new)


def make_spec(
    model: str,
    size: str,
    options: dict[str, Any],
    *,
    window: tuple[int, int] | None = None,
    where: object = None,
) -> ModelSpec:
    """The spec that `model`'s registered function gives for a size and checked options.

    Args:
        window: (channels, samples), for models of signals; None = the factory's own defaults, for
            checks before the data is known.
    """
    factory = MODELS.get(model, where=where)
    checked = check_options(factory, options, owner=f"model {model}", where=where)
    listed = MODELS.listed.get(model)
    if window is not None and listed is not None and listed.kind == "signal":
        checked |= dict(zip(FROM_DATA, window, strict=True))
    return factory(size=size, **checked)


def check_options(
    factory: Callable[..., Any], options: dict[str, Any], *, owner: str, where: object = None
) -> dict[str, Any]:
    """`options` validated against the keyword arguments of `factory`, all but `size`.

    Strictly, because 16.0, "16" or true for a frame count is a slip of the pen.
    """
    place = f"{where}.options" if where else "options"
    return typed_options(factory, options, where=place, owner=owner, reserved=("size", *FROM_DATA))


def check_default_checkpoint(spec: ModelSpec, *, where: object = None) -> str:
    """The published checkpoint of this model; ConfigError when the size has none."""
    size = spec.config["size"]
    if spec.default_checkpoint is None or size != "base":
        encoder = spec.config["options"].get("encoder")
        name = f"{spec.name} with encoder {encoder}" if encoder else spec.name
        subject = f"{name} has no published checkpoint"
        raise ConfigError(
            subject if spec.default_checkpoint is None else f"{subject} for size '{size}'",
            where=where,
            hint="set `checkpoint: none` for random weights, or give a folder or hub id that fits",
        )
    return spec.default_checkpoint


def seeded_build(build: Callable[[int], nn.Module], seed: int) -> Callable[[int], nn.Module]:
    """`build` with the random weights of `seed`, leaving torch's global generator as it was."""

    def build_seeded(num_classes: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: that would also reseed every GPU, which is not put back.
            torch.default_generator.manual_seed(derive_seed(seed, "init"))
            return build(num_classes)

    return build_seeded


def describe_config(name: str, size: str, **options: Any) -> dict[str, Any]:
    """The `config` of a spec, in one shape for all models."""
    return {"name": name, "size": size, "options": options}


def check_divides(part: str, part_size: int, whole: str, whole_size: int) -> None:
    """ConfigError unless `whole_size` is a positive multiple of `part_size`."""
    if part_size < 1 or whole_size < part_size or whole_size % part_size:
        raise ConfigError(
            f"{whole} must be a multiple of {part} {part_size}, not {whole_size}",
            hint=f"choose {max(1, round(whole_size / max(1, part_size))) * max(1, part_size)}",
        )


def check_dropout(dropout: float) -> None:
    """ConfigError unless `dropout` is a share below 1."""
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout must be at least 0 and below 1, not {dropout}")


def check_clip_shape(video_BTCHW: torch.Tensor, *, frames: int, image_size: int) -> None:
    """RunError unless the clip is [B, frames, 3, image_size, image_size].

    Without this a TimeSformer takes any frame count and size without a word.
    """
    expected = (frames, 3, image_size, image_size)
    if video_BTCHW.dim() != 5 or tuple(video_BTCHW.shape[1:]) != expected:
        raise RunError(
            f"the model takes clips of {list(expected)}, not {list(video_BTCHW.shape[1:])}",
            hint="set frames and image_size in the entry's options, and plan clips from its spec",
        )


def clean_key(key: str) -> str:
    """A state-dict key without what `torch.compile` and DistributedDataParallel put into it."""
    return key.replace("_orig_mod.", "").removeprefix("module.")


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside `torch.compile` and DistributedDataParallel wrappers."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(module, nn.parallel.DistributedDataParallel):
            inner = module.module
        if inner is None:
            return module
        module = inner


def enable_gradient_checkpointing(module: nn.Module) -> None:
    """Recompute each block in the backward pass: less memory, more time, the same gradients.

    Raises:
        ConfigError: the model has no blocks that can be recomputed.
    """
    enable = getattr(unwrap(module), "enable_gradient_checkpointing", None)
    if enable is None:
        raise ConfigError(
            f"{type(unwrap(module)).__name__} cannot recompute its blocks",
            hint="set train.gradient_checkpointing: false",
        )
    enable()


def count_parameters(module: nn.Module, *, trainable_only: bool = False) -> int:
    """Numbers in all parameters; shared ones once, buffers not at all."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)


def count_flops(module: nn.Module, spec: ModelSpec) -> int:
    """Floating point operations of the forward pass of one sample, two per multiply-add.

    Counts what `torch.utils.flop_counter` knows: matrix products, convolutions and attention.
    Norms, activations, softmax and sums are left out (about one percent of a transformer).
    Runs on shapes alone, so it costs milliseconds at any size and no device memory.
    """
    inner = unwrap(module)
    shapes = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in [*inner.named_parameters(), *inner.named_buffers()]
    }
    sample = torch.empty(1, *spec.input_shape, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        torch.func.functional_call(inner, shapes, (sample,))
    return counter.get_total_flops()


def _with_normalisation(spec: ModelSpec, checkpoint: str) -> ModelSpec:
    found = read_normalisation(checkpoint_folder(checkpoint, PROCESSOR_FILES))
    if found is None:
        return spec
    mean, std = (cast("Colours", values) for values in found)
    return replace(spec, mean=mean, std=std)
