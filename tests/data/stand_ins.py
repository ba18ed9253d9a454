"""Small trees in the layouts of the published data sets, with real video files of a few frames."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from regatta.data.video_files import write_video

HMDB_CLASSES = ("brush_hair", "climb", "climb_stairs")
DIVES = [["Back", "15som", "05Twis", "FREE"], ["Inward", "25som", "NoTwis", "PIKE"]]
TEMPLATES = ("Putting [something] on [something]", "[Something] falling like a feather or paper")


def write_clip(path: Path, seed: int, frames: int = 6) -> Path:
    """A small video that no other seed makes; XviD in AVI, H.264 or VP8 elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_clip_bytes(path.suffix, seed, frames, path.parent))
    return path


@cache
def _clip_bytes(suffix: str, seed: int, frames: int, folder: Path) -> bytes:
    images = np.random.default_rng(seed).integers(0, 256, (frames, 16, 16, 3), dtype=np.uint8)
    codec = {".avi": "mpeg4", ".webm": "libvpx"}.get(suffix, "libx264")
    tag = "XVID" if suffix == ".avi" else None
    made = write_video(folder / f".made{suffix}", images, fps=12, codec=codec, tag=tag)
    content = made.read_bytes()
    made.unlink()
    return content


def write_lines(path: Path, lines: Sequence[str], end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def write_hmdb51(root: Path, *, videos: str = "videos", lists: str = "test_train_splits") -> Path:
    """Per class: three films for training, one for the test, one clip unused; trailing blanks as
    published."""
    films = [("Crash", 1), ("Juno", 1), ("21", 1), ("BIG_FISH", 2), ("Glory", 0)]
    for place, label in enumerate(HMDB_CLASSES):
        lines = []
        for number, (film, flag) in enumerate(films):
            for take in range(2):
                name = f"{film}_{label}_f_cm_np{take + 1}_ba_med_{number + take * 7}.avi"
                lines.append(f"{name} {flag} ")
                write_clip(root / videos / label / name, 100 * place + 10 * number + take)
        for split in (1, 2, 3):
            write_lines(root / lists / f"{label}_test_split{split}.txt", lines)
    return root


def write_kinetics_csv(
    root: Path, *, class_folders: bool = True, folders: tuple[str, str] = ("train", "val")
) -> Path:
    """Two classes, five training videos and two to judge each."""
    header = "label,youtube_id,time_start,time_end,split,is_cc"
    for part, folder, count in (("train", folders[0], 5), ("validate", folders[1], 2)):
        lines = [header]
        for place, label in enumerate(("air drumming", "tai chi")):
            for number in range(count):
                seed = 100 * place + 10 * number + (part == "train")
                video_id = f"-_{seed:09d}"
                lines.append(f'"{label}",{video_id},{number * 7},{number * 7 + 10},{part},0')
                inner = label.replace(" ", "_") if class_folders else ""
                name = f"{video_id}_{number * 7:06d}_{number * 7 + 10:06d}.mp4"
                write_clip(root / folder / inner / name, seed)
        write_lines(root / "annotations" / f"{part}.csv", lines, end="\r\n")
    return root


def write_ssv2(root: Path, *, suffix: str = ".webm") -> Path:
    """Two templates; four training and two validation clips each."""
    labels = [template.replace("[", "").replace("]", "") for template in TEMPLATES]
    content = {label: str(number) for number, label in enumerate(labels)}
    (root / "labels").mkdir(parents=True)
    (root / "labels" / "labels.json").write_text(json.dumps(content))
    clip = 0
    for part, count in (("train", 4), ("validation", 2)):
        entries = []
        for template in TEMPLATES:
            for _ in range(count):
                clip += 1
                entries.append({"id": str(clip), "label": "putting a cup", "template": template})
                write_clip(root / "20bn-something-something-v2" / f"{clip}{suffix}", clip)
        (root / "labels" / f"{part}.json").write_text(json.dumps(entries))
    (root / "labels" / "test.json").write_text('[{"id": "99"}]')
    return root


def write_diving48(root: Path) -> Path:
    """Two dives; three competitions for training and one for the test."""
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "Diving48_vocab.json").write_text(json.dumps(DIVES))
    for part, videos in (("train", ("-mmq0PT_u8k", "_8Vy3dlHg2w", "2x00lRz")), ("test", ("xP",))):
        entries = []
        for video in videos:
            for number in range(4):
                name = f"{video}_{number:05d}"
                entry = {"vid_name": name, "label": number % 2, "start_frame": 0, "end_frame": 6}
                entries.append(entry)
                write_clip(root / "rgb" / f"{name}.mp4", sum(map(ord, video)) * 10 + number)
        (root / "annotations" / f"Diving48_V2_{part}.json").write_text(json.dumps(entries))
    return root
