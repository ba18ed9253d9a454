"""What `regatta data` says of scenes, and the short forms of their options."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

SOURCE = "trajectories"
_STORED_OPTIONS = {
    "per_class",
    "cameras",
    "frames",
    "size",
    "axis",
    "disc",
    "trail",
    "ground",
    "colour",
    "distractors",
    "occluder",
    "position_noise",
    "codec",
    "crf",
    "layout",
}


def short_options(**given: int | None) -> list[str]:
    """`--per-class 60` and its kind as `--set` would say them; None = not given.

    The seed draws the scenes and the splits.
    """
    return [
        f"split_seed={value}" if name == "seed" else f"options.{name}={value}"
        for name, value in given.items()
        if value is not None
    ]


def options_of_folder(folder: Path) -> list[str] | None:
    """The options that a folder of scenes was made with, as `--set` says them; None = it is none.

    Raises:
        RecordError: a list of the folder cannot be read.
    """
    import json

    from regatta.core.files import read_json

    marker, finished = folder / "generated.json", folder / "dataset.json"
    if not marker.is_file():
        return None
    made = read_json(marker)
    if made.get("source") != SOURCE:
        return None
    split_seed = read_json(finished).get("split_seed") if finished.is_file() else None
    told = [f"options.{key}={json.dumps(made[key])}" for key in made if key in _STORED_OPTIONS]
    return [
        *told,
        f"options.generator_seed={made['seed']}",
        f"split_seed={made['seed'] if split_seed is None else split_seed}",
    ]


def scene_facts(scanned: Any) -> dict[str, Any]:
    """Counts, visibility, redraws and shortcuts of the scenes that a scan found."""
    from regatta.data.scenes.audit import shortcut_accuracy
    from regatta.data.scenes.cameras import camera_ring
    from regatta.data.scenes.render import wholly_visible
    from regatta.data.scenes.world import draw_scenes

    settings, storage = scanned.listing.settings, scanned.listing.storage
    samples = scanned.manifest.samples
    tracks = draw_scenes(settings, scanned.indices)
    shown = tracks.positions[:, : settings.frames]
    cameras = camera_ring(settings.cameras, settings.size)
    visible = wholly_visible(shown, cameras, settings, indices=scanned.indices)
    labels = Counter(sample.label_name for sample in samples)
    return {
        "scene": {
            "cameras": settings.cameras,
            "frames": settings.frames,
            "size": settings.size,
            "seed": settings.seed,
            "stored": "stream" if storage is None else f"{storage.codec}, {storage.layout}",
        },
        "class_names": scanned.manifest.classes,
        "class_counts": {name: labels[name] for name in scanned.manifest.classes},
        "visible": visible.mean(axis=(0, 2)).tolist(),
        "redraws": {
            "all": int(tracks.rejected.sum()),
            "most": int(tracks.rejected.max()),
            "by_class": {
                name: float(tracks.rejected[tracks.labels == label].mean())
                for label, name in enumerate(settings.classes)
            },
        },
        "shortcuts": shortcut_accuracy(shown, tracks.labels, [s.split for s in samples]),
    }


def scene_lines(facts: dict[str, Any]) -> list[str]:
    """The same for people."""
    scene, redraws = facts["scene"], facts["redraws"]
    counts = ", ".join(f"{name} {count}" for name, count in facts["class_counts"].items())
    visible = ", ".join(f"{100 * share:.1f} %" for share in facts["visible"])
    by_class = ", ".join(f"{name} {mean:.2f}" for name, mean in redraws["by_class"].items())
    lines = [
        f"{scene['cameras']} cameras x {scene['frames']} frames of {scene['size']} x "
        f"{scene['size']} pixels; seed {scene['seed']}; {scene['stored']}",
        f"classes {counts}",
        f"object wholly in view, by camera: {visible}",
        f"tracks drawn again because they left the view: {redraws['all']}, at most "
        f"{redraws['most']} for one scene; per scene {by_class}",
        f"hash {facts['hash']}",
    ]
    shortcuts = facts["shortcuts"]
    if shortcuts is not None:
        told = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shortcuts.items())
        lines.append(
            f"classes told by 9 nearest neighbours without the form of the true track: {told}"
        )
    return lines
