"""Promises of `regatta data` for scenes: made by short flags, looked at by folder alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from typer.testing import CliRunner

from regatta.cli.data_scenes import options_of_folder, short_options
from regatta.cli.main import app
from regatta.data.scenes.audit import shortcut_accuracy
from regatta.data.scenes.settings import SceneSettings
from regatta.data.scenes.world import draw_scenes

SHORT = ("--per-class", "6", "--seed", "3", "--cameras", "2", "--frames", "16", "--size", "16")


def shown(*arguments: object, code: int = 0) -> str:
    """What the command says, in this process."""
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder that `data make` wrote, under a name that is no source, and what it said."""
    folder = tmp_path_factory.mktemp("cli") / "traj-24"
    return folder, shown("make", "trajectories", "--to", folder, *SHORT)


def test_short_flags_make_the_files_that_they_name(made: tuple[Path, str]) -> None:
    folder, text = made
    assert "24 scenes, 4 classes" in text
    facts = json.loads((folder / "dataset.json").read_text())
    told = [facts[key] for key in ("per_class", "seed", "cameras", "frames", "size")]
    assert told == [6, 3, 2, 16, 16]
    assert len(list((folder / "videos").iterdir())) == 48


def test_a_folder_is_checked_by_its_path_alone(made: tuple[Path, str]) -> None:
    text = shown("check", made[0])
    assert "24 scenes, 4 classes" in text
    assert "2 cameras x 16 frames of 16 x 16 pixels; seed 3; ffv1, views" in text
    assert "classes linear 6, circular 6, helical 6, parabolic 6" in text
    assert "wholly in view, by camera: 100.0 %, 100.0 %" in text
    assert "drawn again" in text
    assert "fps" not in text


def test_json_holds_counts_visibility_redraws_and_hash(made: tuple[Path, str]) -> None:
    facts = json.loads(shown("check", made[0], "--json"))
    assert facts["visible"] == [1.0, 1.0]
    assert facts["class_counts"] == dict.fromkeys(SceneSettings().classes, 6)
    assert facts["redraws"]["most"] <= facts["redraws"]["all"]
    assert {name: row["samples"] for name, row in facts["splits"].items()} == {
        "train": 16,
        "validation": 4,
        "test": 4,
    }
    assert len(facts["hash"]) == 64
    assert set(facts["shortcuts"]) == {"speed", "box-and-speed"}


def splits_of(folder: Path) -> list[list[str]]:
    return [line.split(",") for line in (folder / "splits.csv").read_text().splitlines()[1:]]


def test_a_lost_video_is_listed_by_id_and_the_check_fails(tmp_path: Path) -> None:
    folder = tmp_path / "traj"
    shown("make", "trajectories", "--to", folder, *SHORT)
    trained = next(row for row in splits_of(folder) if row[1] == "train")[0]
    (folder / "videos" / f"{trained}_cam1.mkv").unlink()
    text = shown("check", folder, code=2)
    assert f"damaged: {trained}: videos/{trained}_cam1.mkv missing or empty" in text


def test_another_seed_in_the_same_folder_is_refused(made: tuple[Path, str]) -> None:
    command = ("regatta", "data", "make", "trajectories", "--to", str(made[0]), *SHORT)
    command = (*command, "--seed", "4")
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert "seed is 3, not 4" in done.stderr


def test_short_options_are_those_of_set() -> None:
    assert short_options(per_class=5, seed=1, size=None) == ["options.per_class=5", "split_seed=1"]


def test_other_folders_are_no_scenes(tmp_path: Path) -> None:
    assert options_of_folder(tmp_path) is None
    (tmp_path / "generated.json").write_text('{"source": "shapes"}')
    assert options_of_folder(tmp_path) is None


def test_shortcuts_are_those_of_the_published_table() -> None:
    """Table (h): mean speed 61 %, box and speed 92 %, with 3,000 to train and 1,000 to test on."""
    settings = SceneSettings(seed=21)
    tracks = draw_scenes(settings, range(4000))
    splits = ["train"] * 3000 + ["test"] * 1000
    places = tracks.positions[:, :32]
    found = shortcut_accuracy(places, tracks.labels, splits)
    assert found is not None
    # Of 1,000 answers the standard error is 1.5 points.
    assert found["speed"] == pytest.approx(0.61, abs=0.045)
    assert found["box-and-speed"] == pytest.approx(0.92, abs=0.045)
    step = np.linalg.norm(places[:, 1:] - places[:, :-1], axis=2).mean(axis=1)[:, None]
    model = KNeighborsClassifier(9).fit(step[:3000], tracks.labels[:3000])
    assert found["speed"] == pytest.approx(
        model.score(step[3000:], tracks.labels[3000:]), abs=0.002
    )
