"""A running Slurm for a test, started here where there is none; else the test is skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("one_host_slurm.sh")


def need_slurm() -> None:
    """Skip unless `sbatch` is installed and a cluster runs, or can be started by this user."""
    if shutil.which("sbatch") is None or not Path("/usr/sbin/slurmctld").exists():
        pytest.skip("no sbatch: apt-get install slurm-wlm munge")
    if os.getuid() != 0 and subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
        pytest.skip("Slurm is installed but not running, and only root can start it")
    started = subprocess.run([str(SCRIPT), "start"], capture_output=True, text=True, timeout=60)
    assert started.returncode == 0, started.stderr
