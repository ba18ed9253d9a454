"""How models of images are judged: a list of conditions, and what each does to the pictures.

A protocol of images is one function registered with `@PROTOCOLS.register("name", kind="image")`
that returns an `ImageProtocol`; its keyword arguments are the options of a study file. Pictures are
changed as uint8, before any model normalises them, so every entry meets the same disturbance.

Shapes: N images, 3 colours, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from typing import Protocol as Shape

import numpy as np
import torch

from regatta.config.schema import ProtocolSection
from regatta.core.errors import ConfigError
from regatta.core.registry import PROTOCOLS
from regatta.evaluation.corruptions import NAMES, SEVERITIES, add_noise, corrupt_images
from regatta.evaluation.ood_sets import check_ood_items
from regatta.evaluation.protocols import (
    Protocol,
    check_axis,
    check_conditions,
    resolve_protocol,
    sample_stream,
)
from regatta.records.conditions import Condition

CorruptionName = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
]
CLEAN = Condition("clean", {"corruption": "clean", "level": 0}, is_reference=True)
GENERATED = (
    "Corrupted images are generated here with the constants of CIFAR-10-C (Hendrycks and "
    "Dietterich 2019); they are not the published arrays, so error rates are close to published "
    "ones but not the same numbers.",
    "The published frost lays photographs of ice over the image; here the ice is drawn.",
)


class ShowImages(Shape):
    """What a model sees of images under a condition; pure, and equal in any company."""

    def __call__(
        self, images_NCHW: torch.Tensor, sample_ids: Sequence[str], condition: Condition
    ) -> torch.Tensor:
        """uint8 [N, 3, H, W] on the CPU -> the same shape and type."""
        ...


@dataclass(frozen=True)
class ImageProtocol:
    """Conditions in report order, and what each shows of images.

    show: None = every image as it is. notes: what a reader of the numbers must know of how the
    conditions were made. ood: data from elsewhere to judge beside them, see
    `regatta.evaluation.ood_sets`.
    """

    name: str
    conditions: list[Condition]
    show: ShowImages | None = None
    axes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    ood: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_conditions(self.name, self.conditions)


UNCHANGED = ImageProtocol("as-recorded", [Condition("as-recorded", is_reference=True)])
"""How images of unknown classes or from elsewhere are judged, whatever the study's protocol."""


@PROTOCOLS.register("image-robustness", kind="image")
def image_robustness_protocol(
    *,
    noise: Sequence[float] = (0.05, 0.1, 0.2, 0.3),
    corruptions: Sequence[CorruptionName] | Literal["all", "none"] = "all",
    severities: Sequence[int] = SEVERITIES,
    ood: Sequence[str] = (),
    corruption_seed: int = 0,
) -> ImageProtocol:
    """Images with Gaussian noise and 15 common corruptions at five severities.

    Ids are clean (the reference), noise-{sd} and {corruption}-{severity}. Draws depend on the
    sample and the corruption alone, and are the same at every level of it.

    Args:
        noise: sd as a share of the range of grey levels.
        corruptions: names as CIFAR-10-C has them, all or none of them.
        severities: 1 to 5, the strongest.
        ood: images from elsewhere, to be told from the data's own: gaussian-noise, uniform-noise,
            or images:<folder or zip>.
    Raises:
        ConfigError: a level out of range or given twice, or an ood item of no known kind.
    """
    for sd in noise:
        if not 0 < sd <= 1:
            raise _refused("noise", f"noise is a share above 0, at most 1, got {sd:g}")
    if len(set(noise)) < len(noise):
        raise _refused("noise", "noise lists a level twice")
    chosen = (
        {"all": NAMES, "none": ()}[corruptions] if isinstance(corruptions, str) else corruptions
    )
    if len(set(chosen)) < len(chosen):
        raise _refused("corruptions", "corruptions lists a name twice")
    if chosen:
        check_axis("severities", severities, low=SEVERITIES[0], high=SEVERITIES[-1])
    check_ood_items(ood)
    conditions = [CLEAN, *(_condition("noise", sd) for sd in noise)]
    conditions += [_condition(name, severity) for name in chosen for severity in severities]

    def show(
        images_NCHW: torch.Tensor, sample_ids: Sequence[str], condition: Condition
    ) -> torch.Tensor:
        name, level = condition.axes["corruption"], condition.axes["level"]
        if name == "clean":
            return images_NCHW
        draws = [sample_stream(corruption_seed, name, sample_id) for sample_id in sample_ids]
        images_NHWC = np.ascontiguousarray(images_NCHW.permute(0, 2, 3, 1).numpy())
        if name == "noise":
            noisy = add_noise(images_NHWC / 255.0, level, draws)
            changed = np.round(np.clip(noisy, 0, 1) * 255).astype(np.uint8)
        else:
            changed = corrupt_images(images_NHWC, name, level, draws)
        return torch.from_numpy(changed).permute(0, 3, 1, 2).contiguous()

    axes, notes = ("corruption", "level"), GENERATED if chosen else ()
    return ImageProtocol("image-robustness", conditions, show, axes, notes, tuple(ood))


def resolve_image_protocol(section: ProtocolSection) -> ImageProtocol:
    """The protocol that a study of images names; one for any data shows images as they are.

    Raises:
        UnknownNameError, ConfigError: as `resolve_protocol`.
    """
    protocol: Protocol | ImageProtocol = resolve_protocol(section)
    if isinstance(protocol, ImageProtocol):
        return protocol
    return ImageProtocol(protocol.name, protocol.conditions, axes=protocol.axes)


def _condition(name: str, level: float) -> Condition:
    return Condition(f"{name}-{level:g}", {"corruption": name, "level": level})


def _refused(option: str, what: str) -> ConfigError:
    return ConfigError(what, where=f"protocol.options.{option}", hint="change it")
