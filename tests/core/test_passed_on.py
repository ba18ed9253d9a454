"""Promise of what is passed on: no name of a user, and no folder of the author's disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from regatta.core.passed_on import hide_below, hide_folders, without_folders


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/Jane Doe/x.mp4 is cut", "…/x.mp4 is cut"),
        ("/home/Jane Doe/My Data/x.mp4", "…/My Data/x.mp4"),
        ("root is /home/jane", "root is …"),
        ("(/Users/jane)", "(…)"),
        (r"C:\Users\Jane Doe\x.mp4", "…/x.mp4"),
        ("file:///home/jane/x", "file://…/x"),
        ("class/home/clip.avi", "class/home/clip.avi"),
        (
            "/homes is no folder of ours, 3/4 is a share",
            "/homes is no folder of ours, 3/4 is a share",
        ),
    ],
)
def test_a_users_name_is_cut_from_texts(text: str, shown: str) -> None:
    assert without_folders(text) == shown


def test_known_folders_are_cut_whatever_stands_in_their_names(tmp_path: Path) -> None:
    root = tmp_path / "My (best) Data"
    hide_below(root, None)
    assert without_folders(f"{root}/cats and dogs/1.mp4") == "…/cats and dogs/1.mp4"
    assert without_folders(f"{root}/cats/1.mp4, {root}: empty") == "…/1.mp4, …: empty"
    # Not the folder, but one of a longer name.
    assert "Data-2" not in without_folders(f"{tmp_path}/a/Data-2/1.mp4")
    assert hide_folders({"where": [str(root)]}) == {"where": ["…"]}


def test_home_and_working_folder_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here = tmp_path / "jane doe", tmp_path / "her work"
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    assert without_folders(f"{home} and {here}/runs/a.csv") == "… and …/a.csv"
