"""One task of a Slurm step: the toy study's trainings, on all tasks of the step."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from regatta.config.load import load_study
from regatta.core.signals import StopFlag
from regatta.orchestrate.rank_places import slurm_place
from regatta.orchestrate.ranks import Crew, RankLauncher, follow_first
from regatta.orchestrate.supervise import run_study
from regatta.records.run_folder import open_study
from tests.orchestrate.toy import WORKER_COMMAND, register_toys


def main(study_file: Path, runs: Path) -> int:
    register_toys()
    stop, place = StopFlag().install(), slurm_place(runs)
    assert place is not None
    if place.rank:
        return follow_first(place, stop)
    study = load_study(study_file)
    with Crew(place, stop) as crew:
        code = run_study(
            open_study(runs, study),
            study,
            stop=stop,
            echo=lambda text: print(text, flush=True),
            only=("prepare", "train"),
            make_launcher=partial(RankLauncher, crew=crew),
            worker_command=WORKER_COMMAND,
        )
        crew.dismiss(code)
        return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[3])))
