"""Arguments that several verbs share, and how a verb finds the study folder that is meant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regatta.config.load import load_study
from regatta.core.errors import ConfigError
from regatta.records.run_folder import StudyFolder

StudyFile = Annotated[Path, typer.Argument(help="The study file (YAML).", show_default=False)]
Target = Annotated[
    Path | None,
    typer.Argument(
        help="A study folder (runs/<study>) or its study file; may be left out when there is one.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one key, for example --set train.epochs=1."
    ),
]
Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds all study folders.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

RUNS = Path("runs")


def study_folders(runs: Path) -> list[StudyFolder]:
    """Every study folder directly under `runs`, by name."""
    if not runs.is_dir():
        return []
    return [StudyFolder(path) for path in sorted(runs.iterdir()) if (path / "study.yaml").is_file()]


def find_study(target: Path | None, runs: Path) -> StudyFolder:
    """The study folder that `target` means.

    Raises:
        ConfigError: nothing is there, or several studies and none was named.
    """
    if target is None:
        found = study_folders(runs)
        if len(found) == 1:
            return found[0]
        names = ", ".join(str(folder.path) for folder in found)
        raise ConfigError(
            f"several studies: {names}" if found else "no study has been run here",
            where=runs,
            hint="name one of them" if found else "start one with: regatta run study.yaml",
        )
    if target.is_file() and target.suffix in {".yaml", ".yml"} and target.name != "study.yaml":
        return StudyFolder(runs / load_study(target).name)
    folder = StudyFolder(target.parent if target.name == "study.yaml" else target)
    if not folder.study_yaml.is_file() and (runs / target / "study.yaml").is_file():
        folder = StudyFolder(runs / target)
    folder.study()
    return folder
