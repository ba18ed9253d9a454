"""Measure how fast each class moves, once per study, beside a protocol that thins out time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from regatta.config.schema import Study
from regatta.core.files import read_json, write_json
from regatta.data.manifest import Manifest, Sample
from regatta.data.motion import class_spectra
from regatta.records.run_folder import StudyFolder

UNTIMED = ("plain", "multi-view")
"""Protocols that show every clip at one rate: nothing to hold a spectrum against."""


def measure_motion(
    folder: StudyFolder,
    study: Study,
    manifest: Manifest,
    samples: Sequence[Sample],
    *,
    poll: Callable[[], None],
) -> None:
    """Write motion.json unless it holds for these samples already, or the protocol has no use
    for it.

    Args:
        samples: those that are judged.
        poll: called before each file; may raise to leave.
    """
    section = study.protocol
    if not section.motion_samples or section.name in UNTIMED:
        return
    settings: dict[str, Any] = {
        "manifest": manifest.hash(),
        "samples_per_class": section.motion_samples,
        "split": section.split,
        "sample_size": section.sample_size,
        "seed": section.sample_seed,
    }
    if folder.motion_json.is_file() and read_json(folder.motion_json)["settings"] == settings:
        return
    spectra = class_spectra(
        samples, per_class=section.motion_samples, seed=section.sample_seed, poll=poll
    )
    write_json(folder.motion_json, {"settings": settings, "classes": spectra})
