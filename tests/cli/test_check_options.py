"""`regatta check` refuses what only the models know, without loading torch itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from regatta.cli import check
from regatta.config.load import study_from_mapping
from regatta.core.errors import EnvironmentFault

STUDY = """
name: checked
data: {source: har-synthetic, root: syn}
entries:
  - {name: vit, model: har-vit, checkpoint: none, options: {encoder: vit-micro}}
train: {freeze_encoder: true}
"""


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("entries.vit.options.mode=flaten", "flatten"),
        ("entries.vit.checkpoint=default", "vit-micro"),
        ("train.cutmix=1.0", "cutmix cuts out a part of a picture"),
    ],
)
def test_a_setting_that_a_model_refuses_is_told_before_anything_starts(
    tmp_path: Path, override: str, told: str
):
    (tmp_path / "s.yaml").write_text(STUDY)
    command = [sys.executable, "-m", "regatta", "check", "s.yaml", "--set", override]
    child = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert child.returncode == 2
    assert told in child.stderr
    assert "Traceback" not in child.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.yaml"]


def test_models_that_never_answer_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    # Python alone takes longer to start.
    monkeypatch.setattr(check, "OPTION_SECONDS", 0.001)
    study = study_from_mapping(yaml.safe_load(STUDY))
    with pytest.raises(EnvironmentFault, match=r"no answer for 0\.001 s"):
        check.check_entry_options(study)
