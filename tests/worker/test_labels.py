"""Promise of the list of labels that a run may use: no name in it is run by a spreadsheet."""

from __future__ import annotations

from pathlib import Path

from regatta.data.manifest import Manifest
from regatta.worker.labels import with_label_share
from tests.worker.small_windows import drawn, small_study


def test_no_sample_in_the_list_of_labels_is_a_formula(tmp_path: Path) -> None:
    folder = small_study(tmp_path, [drawn("a", train={"label_fraction": 0.5})])
    spec, run = folder.runs()[0]
    manifest = Manifest.load(folder.manifest)
    for sample in manifest.samples:
        object.__setattr__(sample, "sample_id", "=cmd()" + sample.sample_id)
    run.path.mkdir(parents=True, exist_ok=True)
    share = with_label_share(manifest, spec, run, seed=0, writes=True)
    rows = run.label_indices.read_text().splitlines()[1:]
    assert len(rows) == len(share.split("train"))
    assert all(row.startswith("'=cmd()") for row in rows)
