"""From a sample to its clip: which frames, how they are cut and scaled, and who else needs them.

Shapes: T frames of a clip, S model input side, H and W picture sides, n frames of one piece.
A clip depends on (recipe, seed, epoch, sample) alone, so anyone may make it for anyone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from regatta.core.seeds import stream
from regatta.data.augment import Augmentation, augment_clip, draw_augmentation
from regatta.data.frame_plan import plan_training_clip
from regatta.data.manifest import Sample
from regatta.data.temporal_augment import TemporalAugment, draw_temporal
from regatta.data.transforms import Resize, mean_frame, resize_frames


@dataclass(frozen=True)
class ClipRecipe:
    """All that a clip depends on beside seed, epoch and sample.

    With `augment="none"` a clip is the fixed uniform plan of its sample, resized as `resize` says;
    with "standard" the plan is jittered in time and every clip gets its own random resized crop
    and, if `flip` allows, mirror. `temporal` shows a share of the clips at other rates and lengths.
    """

    frames: int
    image_size: int
    resize: Resize
    augment: Literal["none", "standard"] = "standard"
    flip: bool = True
    crop_scale_min: float = 0.5
    temporal: TemporalAugment | None = None

    @property
    def is_fixed(self) -> bool:
        """Whether a sample's clip is the same in every epoch."""
        return self.augment == "none" and self.temporal is None

    @property
    def clip_bytes(self) -> int:
        return self.frames * 3 * self.image_size**2

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        return (self.frames, 3, self.image_size, self.image_size)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> ClipRecipe:
        temporal = record["temporal"]
        if temporal is not None:
            temporal = TemporalAugment(
                temporal["probability"],
                tuple(temporal["coverage_percent"]),
                tuple(temporal["stride_frames"]),
                temporal["box_probability"],
            )
        return cls(**{**record, "temporal": temporal})

    def begin(self, sample: Sample, *, seed: int, epoch: int) -> ClipInMaking:
        """The clip of a sample in an epoch, before its frames are there."""
        rng = None
        if self.augment == "standard":
            rng = stream(seed, "sample", epoch, sample.sample_id)
        indices = plan_training_clip(sample.frames, self.frames, rng)
        shown = tuple((index,) for index in indices)
        if self.temporal is not None:
            # Its own stream: what is drawn here shifts neither jitter nor crop.
            draw = draw_temporal(self.temporal, stream(seed, "temporal", epoch, sample.sample_id))
            shown = draw.plan(sample.frames, self.frames).shown if draw else shown
        return ClipInMaking(self, shown, rng)


@dataclass
class ClipInMaking:
    """One clip that takes the frames it wants out of what is decoded, piece by piece."""

    recipe: ClipRecipe
    shown: tuple[tuple[int, ...], ...]
    """The source frames behind each model frame, counted from the sample's first."""
    rng: np.random.Generator | None
    _pictures: dict[int, torch.Tensor] = field(default_factory=dict)
    _augmentation: Augmentation | None = None

    @property
    def wanted(self) -> set[int]:
        return {index for blend in self.shown for index in blend}

    def take(self, ordinals: Sequence[int], images: np.ndarray) -> None:
        """Scale those of the frames uint8 [n, H, W, 3] that are wanted; `images` may go then."""
        wanted = self.wanted
        rows = [row for row, ordinal in enumerate(ordinals) if ordinal in wanted]
        whole = torch.from_numpy(images)
        # Views, frame by frame: choosing rows of large pictures copies them, which takes longer
        # than scaling them. A frame's pixels do not depend on its neighbours.
        pieces = [whole] if len(rows) == len(whole) else [whole[row : row + 1] for row in rows]
        scaled = [picture for piece in pieces for picture in self._scale(piece)]
        self._pictures |= {
            ordinals[row]: picture for row, picture in zip(rows, scaled, strict=True)
        }

    def _scale(self, images_nHWC: torch.Tensor) -> torch.Tensor:
        """uint8 [n, H, W, 3] -> [n, 3, S, S]."""
        recipe, (height, width) = self.recipe, images_nHWC.shape[1:3]
        if self.rng is None:
            return resize_frames(images_nHWC, size=recipe.image_size, resize=recipe.resize)
        if self._augmentation is None:
            self._augmentation = draw_augmentation(
                self.rng, height, width, scale_min=recipe.crop_scale_min, flip=recipe.flip
            )
        return augment_clip(images_nHWC, self._augmentation, size=recipe.image_size)

    def finish(self) -> torch.Tensor:
        """The clip, uint8 [T, 3, S, S]; all wanted frames must have been taken."""
        clip = torch.empty(self.recipe.clip_shape, dtype=torch.uint8)
        made: dict[tuple[int, ...], torch.Tensor] = {}
        for place, blend in enumerate(self.shown):
            if blend not in made:
                pictures = [self._pictures[index] for index in blend]
                # As in judging: frames are averaged at the model's size.
                one = len(pictures) == 1
                made[blend] = pictures[0] if one else mean_frame(torch.stack(pictures))
            clip[place] = made[blend]
        return clip


def make_clips(
    clips: Iterable[ClipInMaking],
    read: Callable[[Sequence[int]], Iterable[np.ndarray]],
) -> list[torch.Tensor]:
    """Several clips of one sample from one pass over its frames.

    Args:
        read: gives the frames of ascending ordinals as pieces uint8 [n, H, W, 3].
    """
    clips = list(clips)
    wanted = sorted(set().union(*(clip.wanted for clip in clips)))
    done = 0
    for images in read(wanted):
        ordinals = wanted[done : done + len(images)]
        for clip in clips:
            clip.take(ordinals, images)
        done += len(images)
    return [clip.finish() for clip in clips]
