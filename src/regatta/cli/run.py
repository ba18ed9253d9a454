"""`regatta run`: train, judge, compare and report what is missing of a study."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regatta.cli.arguments import RUNS, AsJson, Overrides, Runs
from regatta.cli.flags import (
    Accumulate,
    Checkpoint,
    DataName,
    Device,
    Devices,
    Epochs,
    Flags,
    LearningRate,
    Models,
    Name,
    Parallel,
    ProtocolName,
    Root,
    SampleSize,
    Seeds,
    Size,
    StudyTarget,
    TrainBatch,
    read_flags,
)
from regatta.core.errors import ConfigError
from regatta.core.signals import StopFlag

if TYPE_CHECKING:
    from regatta.cli.choose import Chosen
    from regatta.config.schema import Study
    from regatta.orchestrate.plan import TaskKind
    from regatta.orchestrate.ranks import Crew
    from regatta.orchestrate.snapshot import StudyReader
    from regatta.orchestrate.supervise import MakeLauncher
    from regatta.records.run_folder import StudyFolder

Restart = Annotated[
    list[str] | None,
    typer.Option(
        "--restart",
        metavar="RUN_ID",
        help="Delete this run's checkpoints and results first, so that it starts over.",
    ),
]

Detach = Annotated[
    bool,
    typer.Option(
        "--detach", help="With launch.on=slurm: leave once the jobs are submitted; they go on."
    ),
]


def run(
    study: StudyTarget = None,
    models: Models = None,
    data: DataName = None,
    root: Root = None,
    name: Name = None,
    size: Size = None,
    checkpoint: Checkpoint = None,
    seeds: Seeds = None,
    epochs: Epochs = None,
    batch_size: TrainBatch = None,
    lr: LearningRate = None,
    accumulate: Accumulate = None,
    parallel: Parallel = None,
    protocol: ProtocolName = None,
    sample_size: SampleSize = None,
    device: Device = None,
    devices: Devices = None,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    restart: Restart = None,
    as_json: AsJson = False,
    detach: Detach = False,
) -> None:
    """Run a study: finish what is missing, redo nothing, print the path of the report last.

    With nothing said, on a terminal, it asks: study, devices, batch, epochs and learning rate.

    regatta run study.yaml --model videomae --set train.epochs=1

    regatta run --model all --data ucf101 --root UCF101_data --protocol temporal-grid
    """
    keys = {
        "data.root": root,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.lr": lr,
        "train.accumulate": accumulate,
        "train.parallel": parallel,
        "protocol.name": protocol,
        "protocol.sample_size": sample_size,
        "launch.device": device,
        "launch.devices": devices,
    }
    flags = read_flags(
        models,
        data=data,
        name=name,
        size=size,
        checkpoint=checkpoint,
        seeds=seeds,
        keys=keys,
        overrides=overrides,
    )
    if study is None and flags == Flags() and not restart and not as_json:
        study = _asked_study(runs)
    code = launch(study, flags=flags, runs=runs, restart=restart, as_json=as_json, detach=detach)
    if code:
        raise typer.Exit(code)


def _asked_study(runs: Path) -> Path | None:
    """The study file that the answers on a terminal make; None where there is no terminal."""
    from regatta.cli.launcher import ask_launch, is_on_terminal

    if not is_on_terminal():
        return None
    asked = ask_launch(runs)
    if not asked.starts:
        raise typer.Exit
    return asked.path


@dataclass(frozen=True)
class _Launch:
    """What one launch does, beside the study.

    only: kinds of tasks to do; without `judge` nothing is compared or reported either.
    worker_command: started for each task in place of `python -m regatta.worker`.
    cli_command: started with `compare` and `report` in place of `python -m regatta`.
    detach: leave once a cluster has the jobs.
    """

    restart: Sequence[str]
    as_json: bool
    only: tuple[TaskKind, ...]
    worker_command: tuple[str, ...] | None
    cli_command: tuple[str, ...] | None
    detach: bool = False


def launch(
    target: Path | None,
    *,
    flags: Flags | None = None,
    overrides: Sequence[str] | None = None,
    runs: Path = RUNS,
    restart: Sequence[str] | None = None,
    as_json: bool = False,
    only: tuple[TaskKind, ...] = ("prepare", "train", "judge"),
    worker_command: tuple[str, ...] | None = None,
    cli_command: tuple[str, ...] | None = None,
    detach: bool = False,
) -> int:
    """`run` as a function, see `_Launch`; returns the exit code.

    Under torchrun the first rank does it, with the others at hand for the training.
    """
    from regatta.cli.choose import check_ranks, check_trained, choose_study
    from regatta.evaluation.protocols import check_protocol
    from regatta.orchestrate.rank_places import under_torchrun
    from regatta.orchestrate.ranks import Crew, follow_first

    stop, place = _listen_for_stop(), under_torchrun(runs)
    if place and place.rank:
        return follow_first(place, stop)
    flags = flags or Flags()
    flags = replace(flags, overrides=(*flags.overrides, *(overrides or ())))
    how = _Launch(restart or (), as_json, only, worker_command, cli_command, detach)

    def begin(crew: Crew | None) -> int:
        chosen = choose_study(target, flags, runs, may_build="train" in only)
        # Before the folder says so too: a worker would find it out only once models are trained.
        check_protocol(chosen.study)
        if "train" not in only:
            check_trained(chosen, named=bool(flags.models))
        if crew:
            check_ranks(chosen, crew.world, trains_only="judge" not in only)
        return _launch(chosen, how, stop, crew)

    if place is None:
        return begin(None)
    with Crew(place, stop) as crew:
        code = begin(crew)
        crew.dismiss(code)
        return code


def _launch(chosen: Chosen, how: _Launch, stop: StopFlag, crew: Crew | None) -> int:
    from regatta.cli.choose import notes_on
    from regatta.orchestrate.slurm_study import refuse_other_settings
    from regatta.records.run_folder import held_study

    notes = notes_on(chosen, trains="train" in how.only, ranks=crew.world if crew else 0)
    # Saving other settings would take them from under the jobs that are at work.
    refuse_other_settings(chosen.folder, chosen.study)
    with held_study(chosen.runs_root, chosen.study) as folder:
        return _launch_held(folder, chosen, how, stop, crew, notes)


def _launch_held(
    folder: StudyFolder,
    chosen: Chosen,
    how: _Launch,
    stop: StopFlag,
    crew: Crew | None,
    notes: Sequence[str],
) -> int:
    from regatta.orchestrate.finish import CLI_COMMAND, finish_study, report_is_current, report_page
    from regatta.orchestrate.snapshot import StudyReader
    from regatta.orchestrate.watch import open_display

    study = chosen.study
    reader = StudyReader(folder)
    display = open_display(sys.stderr if how.as_json else sys.stdout)

    def show() -> None:
        display.show(reader.read(curves=True))

    def finish(code: int) -> int:
        show()
        command = how.cli_command or CLI_COMMAND
        done = finish_study(folder, study, stop=stop, echo=display.message, command=command)
        return done if stop.requested else code or done

    try:
        for note in notes:
            display.message(note)
        code = _supervise(folder, study, how, stop, crew, display.message, show, finish, chosen)
        show()
    finally:
        display.close()
    if how.as_json:
        _print_json(reader, code)
    elif "judge" in how.only and not stop.requested and report_is_current(folder, study):
        display.message(str(report_page(folder)))
    return code


def _supervise(
    folder: StudyFolder,
    study: Study,
    how: _Launch,
    stop: StopFlag,
    crew: Crew | None,
    echo: Callable[[str], None],
    tick: Callable[[], None],
    finish: Callable[[int], int],
    chosen: Chosen,
) -> int:
    """Have the study done by what launch.on names, or by the ranks of torchrun."""
    from regatta.orchestrate.finish import CLI_COMMAND
    from regatta.orchestrate.plan import WORKER_COMMAND, study_for_ranks

    worker_command = how.worker_command or WORKER_COMMAND
    on = "local" if crew else study.launch.on
    if how.detach and on != "slurm":
        raise ConfigError(
            f"--detach is for launch.on=slurm, this is {on}",
            hint="to leave a terminal: nohup regatta run ... &, or tmux",
        )
    if on == "slurm":
        from regatta.orchestrate.slurm_study import run_on_slurm

        return run_on_slurm(
            folder,
            study,
            stop=stop,
            echo=echo,
            tick=tick,
            restart=how.restart,
            only=how.only,
            leave_out=chosen.left_out,
            worker_command=worker_command,
            cli_command=how.cli_command or CLI_COMMAND,
            detach=how.detach,
        )
    from regatta.orchestrate.supervise import run_study

    return run_study(
        folder,
        study_for_ranks(study, crew.here) if crew else study,
        stop=stop,
        echo=echo,
        tick=tick,
        restart=how.restart,
        then=finish if "judge" in how.only else None,
        only=how.only,
        leave_out=chosen.left_out,
        make_launcher=_launcher_of(on, crew),
        worker_command=worker_command,
    )


def _launcher_of(on: str, crew: Crew | None) -> MakeLauncher:
    """What starts the tasks: this machine, the ranks of torchrun, or a Ray cluster."""
    if crew:
        from regatta.orchestrate.ranks import RankLauncher

        return partial(RankLauncher, crew=crew)
    if on == "ray":
        from regatta.orchestrate.ray_jobs import RayLauncher

        return RayLauncher
    from regatta.orchestrate.local import LocalLauncher

    return LocalLauncher


def _listen_for_stop() -> StopFlag:
    stop = StopFlag().install()
    # A closed terminal is a request to stop (a cluster's jobs go on), unless nohup said otherwise.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: stop.request("SIGHUP"))
    return stop


def _print_json(reader: StudyReader, code: int) -> None:
    import json

    from regatta.orchestrate.snapshot import study_json

    typer.echo(json.dumps({**study_json(reader.read()), "exit_code": code}, indent=1))
