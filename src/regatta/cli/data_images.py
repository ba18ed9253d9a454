"""What `regatta data` says of images."""

from __future__ import annotations

from typing import Any


def image_facts(scanned: Any) -> dict[str, Any]:
    """Size, mean and sd of the images that a scan found."""
    mean, deviation = scanned.statistics
    return {
        "image": {"size": scanned.images.shape[2], "mean": list(mean), "sd": list(deviation)},
        "class_names": scanned.manifest.classes,
    }


def image_lines(facts: dict[str, Any]) -> list[str]:
    """The same for people."""
    image = facts["image"]
    mean, deviation = (", ".join(f"{x:.4f}" for x in image[key]) for key in ("mean", "sd"))
    names = facts["class_names"]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return [
        f"images of {image['size']} x {image['size']} pixels; mean {mean}; sd {deviation}",
        f"classes {', '.join(names[:12])}{more}",
    ]
