"""What the page says of a fusion study in sentences."""

from __future__ import annotations

from typing import Any

from regatta.report.facts import sentence
from regatta.report.material import Material

AUGMENT = {
    "per-type": "Augmentation: per type. Each fusion type changes its training images in its own "
    "way, so fusion type and augmentation are confounded.",
    "same-for-all": "Augmentation: the same for all fusion types.",
}
UNKNOWN_AUGMENT = "Augmentation: the study does not say whether it is the same for all fusions."


def fusion_view(material: Material) -> dict[str, Any] | None:
    """The sentences around figures and tables; None without the section."""
    section = material.comparison["fusion"]
    if section is None:
        return None
    names = material.entries
    return {
        "sentences": [sentence(text, []) for text in section["sentences"]],
        "augment": AUGMENT.get(section["augment"], UNKNOWN_AUGMENT),
        "decisions": [sentence(row["sentence"], names) for row in section["decision"]],
        "effects": [text for effects in section["effects"] for text in _effects(effects)],
        "notes": [sentence(text, []) for text in section["notes"]],
    }


def _effects(effects: dict[str, Any]) -> list[str]:
    alpha = f"at alpha {effects['alpha']:g}, " if effects["alpha"] is not None else ""
    found = [*effects["sentences"], *effects["notes"]]
    return [sentence(f"{alpha}{text}", []) for text in found]


def lede(material: Material) -> list[str]:
    """Under the verdict: what fusing adds, and what it is worth beside equal cost."""
    section = material.comparison["fusion"]
    return [] if section is None else [sentence(text, []) for text in section["sentences"][1:]]
