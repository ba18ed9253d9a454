"""Reports of simulated studies, each made once per session: drawing is the slow part."""

from __future__ import annotations

from pathlib import Path

import pytest

from regatta.records.run_folder import StudyFolder
from regatta.report.page import write_report
from tests.analysis.build import build_judged_study

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
    write_report(folder)
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
    write_report(folder)
    return folder


def small_study(path: Path, **settings: object) -> StudyFolder:
    """The cheapest study that has a report: one entry, one condition."""
    options = {"entries": 1, "samples": 24, "classes": 2, "protocol": "plain", "part_samples": 24}
    replicates = {"compare": {"replicates": 200}}
    return build_judged_study(path, **{**options, **replicates, **settings})  # type: ignore[arg-type]
