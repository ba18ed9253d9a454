"""The supervisor of a toy study with Ray: toy_ray.py STUDY_FILE RUNS_FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

from regatta.config.load import load_study
from regatta.core.errors import RegattaError
from regatta.core.signals import StopFlag
from regatta.orchestrate.ray_jobs import RayLauncher
from regatta.orchestrate.supervise import run_study
from regatta.records.run_folder import open_study
from tests.orchestrate.toy import WORKER_COMMAND, register_toys

if __name__ == "__main__":
    register_toys()
    chosen = load_study(Path(sys.argv[1]))
    try:
        code = run_study(
            open_study(Path(sys.argv[2]), chosen),
            chosen,
            stop=StopFlag().install(),
            echo=lambda text: print(text, flush=True),
            worker_command=WORKER_COMMAND,
            make_launcher=RayLauncher,
        )
    except RegattaError as error:
        print(f"error: {error}")
        code = error.exit_code
    sys.exit(code)
