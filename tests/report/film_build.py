"""Film-strips of simulated studies: every source frame is a flat colour of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from regatta.config.expand import protocol_id
from regatta.records.conditions import Condition
from regatta.records.film import Film, FilmInput, FilmSample, write_film
from regatta.records.predictions import RunPredictions, read_run_predictions
from regatta.records.run_folder import StudyFolder
from regatta.worker.film import make_sprite
from tests.analysis.build import MODEL_FRAMES
from tests.analysis.protocol_conditions import plan_indices

FRAMES = 64


def color_of(frame: int) -> tuple[int, int, int]:
    return 3 * frame % 256, 255 - 3 * frame, 37 * frame % 256


def strip_of(condition: Condition, entry: str) -> list[int]:
    """Source frames of a clip; a picture has the number of its frame."""
    return plan_indices(FRAMES, condition, MODEL_FRAMES[entry.partition("-")[0]])


def judged_runs(folder: StudyFolder, entry: str) -> list[RunPredictions]:
    protocol = protocol_id(folder.study().protocol)
    return [
        read_run_predictions(
            run.predictions(protocol), run_id=spec.run_id, entry=entry, seed=spec.seed
        )
        for spec, run in folder.runs()
        if spec.entry.name == entry and run.is_judged(protocol)
    ]


def film_of(folder: StudyFolder, *, count: int = 3, side: int = 24, **changes: Any) -> Film:
    """Strips of the first `count` samples, for all entries of the study."""
    study = folder.study()
    entries = [entry.name for entry in study.entries]
    judged = judged_runs(folder, entries[0])[0]
    colors = np.array([color_of(frame) for frame in range(FRAMES)], np.uint8)
    thumbnails = np.broadcast_to(colors[:, None, None], (FRAMES, side, side, 3))
    sprite = make_sprite(np.ascontiguousarray(thumbnails))
    samples = [
        FilmSample(
            sample_id=str(judged.sample_ids[number]),
            label_name=judged.classes[judged.labels[number]],
            group=str(judged.groups[number]),
            frames=FRAMES,
            fps=32.0,
            part=number // study.protocol.part_samples,
            pictures=[[frame] for frame in range(FRAMES)],
            strips={e: {c.id: strip_of(c, e) for c in judged.conditions} for e in entries},
            sprite=sprite,
        )
        for number in range(count)
    ]
    settings = {"manifest": judged.fingerprint["manifest"], "samples": count, "seed": 0}
    inputs = {e: FilmInput(MODEL_FRAMES[e.partition("-")[0]], side, "crop") for e in entries}
    return Film(
        **{"settings": settings, "inputs": inputs, "views": {}, "samples": samples} | changes
    )


def add_film(folder: StudyFolder, **changes: Any) -> Film:
    film = film_of(folder, **changes)
    write_film(folder.film(protocol_id(folder.study().protocol)), film)
    return film
