"""Reports of simulated studies, each made once per session: drawing is the slow part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from regatta.records.run_folder import StudyFolder
from regatta.report import page
from regatta.report.figures import draw_figures
from regatta.report.formats import FORMATS
from regatta.report.material import read_material
from regatta.report.page import write_report
from regatta.report.style import Drawn
from tests.analysis.build import build_judged_study
from tests.report.film_build import add_film
from tests.report.harmless import HOSTILE_NAMES

HOSTILE_CLASSES = (
    '"><img src=x onerror=alert(1)>',
    r"$\input{x}$",
    "=cmd()",
    "转左",
    "x" * 200,
    "</script><script>alert(2)</script>",
    "a|b `c` *d* {{ 7*7 }}",
    "\u202egnp.exe\x07",
)
SECRET = "/srv/private/someone"


@pytest.fixture(scope="session")
def grid_report(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Two entries over the 25 cells, a budget that differs, one run not judged."""
    folder = build_judged_study(
        tmp_path_factory.mktemp("grid"),
        entries=["timesformer", "videomae"],
        samples=96,
        seeds=(0, 1),
        unjudged=[("videomae", 1)],
        entry_train={"videomae": {"epochs": 5}},
        compare={"replicates": 500},
    )
    add_film(folder)
    write_report(folder, formats=FORMATS)
    return folder


@pytest.fixture(scope="session")
def hostile_report(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """One entry, one condition, and names that attack every format."""
    folder = build_judged_study(
        tmp_path_factory.mktemp("hostile"),
        entries=["vivit"],
        samples=64,
        classes=HOSTILE_CLASSES,
        protocol="plain",
        dropped=[(f"{SECRET}/{HOSTILE_CLASSES[0]}.avi", f"cannot open {SECRET}/b.avi: cut")],
        compare={"replicates": 500},
    )
    add_film(folder)
    write_report(folder, formats=FORMATS)
    return folder


def build_hostile_grid(path: Path, classes: Sequence[str] = HOSTILE_NAMES) -> StudyFolder:
    """Two entries over the 25 cells, with the names that attack every output where names can be."""
    folder = build_judged_study(
        path,
        entries=["timesformer", "videomae"],
        samples=8 * len(classes),
        classes=classes,
        dropped=[(f"{name}.avi", f"cannot open {name}") for name in (*classes, "lone \udcff")],
        compare={"replicates": 200},
    )
    add_film(folder)
    return folder


@pytest.fixture(scope="session")
def hostile_drawing(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[StudyFolder, dict[str, Drawn]]:
    """The report of hostile names over a grid, and its figures, so that none is drawn twice."""
    folder = build_hostile_grid(tmp_path_factory.mktemp("hostile-grid"))
    figures = draw_figures(read_material(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "draw_figures", lambda _: figures)
        write_report(folder)
    return folder, figures


@pytest.fixture(scope="session")
def hostile_grid(hostile_drawing: tuple[StudyFolder, dict[str, Drawn]]) -> StudyFolder:
    return hostile_drawing[0]


def small_study(path: Path, **settings: object) -> StudyFolder:
    """The cheapest study that has a report: one entry, one condition."""
    options = {"entries": 1, "samples": 24, "classes": 2, "protocol": "plain", "part_samples": 24}
    replicates = {"compare": {"replicates": 200}}
    return build_judged_study(path, **{**options, **replicates, **settings})  # type: ignore[arg-type]
