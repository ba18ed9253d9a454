"""Promises of `regatta data` for images: its own words, JSON, and the exit code of a refusal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from regatta.cli.main import app
from tests.data.image_files import (
    pictures,
    write_cifar10,
    write_cifar100,
    write_python_cifar100,
    write_tree,
)


def shown(*arguments: object) -> str:
    """What the command says, in this process; it must end well."""
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def regatta(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "regatta", "data", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_folder_of_images_is_counted_in_its_own_words(tmp_path: Path) -> None:
    write_tree(tmp_path / "pictures", {"": 10})
    text = shown("check", "image-folder", "--root", tmp_path / "pictures")
    assert "20 images, 2 classes" in text
    assert "images of 32 x 32 pixels; mean 0." in text
    assert "classes cat, dog" in text
    assert "fps" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures"]


def test_json_says_splits_size_and_damage(tmp_path: Path) -> None:
    write_tree(tmp_path / "pictures", {"": 10}, size=16)
    broken = tmp_path / "pictures" / "dog" / "cut.png"
    broken.write_bytes((broken.parent / "000.png").read_bytes()[:200])
    arguments = ("check", "image-folder", "--root", "pictures", "--set", "options.image_size=16")
    done = regatta(*arguments, "--json", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    facts = json.loads(done.stdout)
    assert {name: row["samples"] for name, row in facts["splits"].items()} == {
        "train": 12,
        "validation": 4,
        "test": 4,
    }
    assert facts["image"]["size"] == 16
    assert [item["path"] for item in facts["damaged"]] == ["dog/cut.png"]
    root = tmp_path / "pictures"
    text = shown("check", "image-folder", "--root", root, "--set", "damaged=drop")
    assert "damaged: dog/cut.png" in text
    assert broken.exists()


def test_what_a_study_would_refuse_ends_with_code_2(tmp_path: Path) -> None:
    write_tree(tmp_path / "pictures", {"train": 3}, ("cat", "dog"))
    write_tree(tmp_path / "pictures", {"test": 3}, ("cat",))
    done = regatta("check", "image-folder", "--root", "pictures", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the classes differ between the splits" in done.stderr
    images = {"train": pictures(4), "test": pictures(4)}
    write_python_cifar100(tmp_path / "release", images)
    done = regatta("check", "cifar100", "--root", "release", cwd=tmp_path)
    assert done.returncode == 2
    assert "regatta data import cifar --root" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_both_cifar_releases_are_checked(tmp_path: Path) -> None:
    write_cifar100(tmp_path / "c100", {"train": 40, "test": 8})
    text = shown("check", "cifar100", "--root", tmp_path / "c100")
    assert "48 images, 4 classes" in text
    assert "mean 0.5071, 0.4865, 0.4409; sd 0.2673, 0.2564, 0.2762" in text
    write_cifar10(tmp_path / "c10", 30)
    facts = json.loads(shown("check", "cifar10", "--root", tmp_path / "c10", "--json"))
    # A tenth of 50 images of each of three classes.
    assert {name: row["samples"] for name, row in facts["splits"].items()} == {
        "train": 135,
        "validation": 15,
        "test": 30,
    }


def test_import_says_what_it_wrote_and_leaves_the_release_alone(tmp_path: Path) -> None:
    images = {"train": pictures(40), "test": pictures(4, 1)}
    write_python_cifar100(tmp_path / "in", images)
    before = {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    done = regatta("import", "cifar", "--root", "in", "--to", "out", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == {"train.bin": 40, "test.bin": 4}
    assert {path: path.read_bytes() for path in (tmp_path / "in").iterdir()} == before
    assert "classes apple, bear, can, dolphin" in shown(
        "check", "cifar100", "--root", tmp_path / "out"
    )


def test_import_without_a_folder_is_refused(tmp_path: Path) -> None:
    done = regatta("import", "cifar", "--to", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "--root" in done.stderr
    assert list(tmp_path.iterdir()) == []
