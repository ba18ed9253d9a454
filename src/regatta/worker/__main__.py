"""The worker's command line, its exit codes, and the last word it leaves in `status.json`.

  python -m regatta.worker prepare --study DIR
  python -m regatta.worker train   --study DIR --run RUN_ID --device cpu --threads 1
  python -m regatta.worker judge   --study DIR --runs ID,ID --shard 1/2 --device cpu --threads 1

`train` also runs under torchrun. Exit codes: 0 good, 1 failed, 2 usage or data, 3 environment,
130/143 stopped with everything saved.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from regatta.core.errors import ConfigError, DeviceError, RegattaError, StopRequested
from regatta.core.files import disk_fault, keep_in_place
from regatta.core.registry import unknown_name
from regatta.core.signals import StopFlag
from regatta.records.in_hand import close_board, open_board
from regatta.records.run_folder import StudyFolder
from regatta.worker.rank_notes import RankNotes
from regatta.worker.status_writer import StatusWriter

if TYPE_CHECKING:
    import torch


def main() -> int:
    """Do one task of a study; every way out has an exit code and leaves a status."""
    arguments = _parser().parse_args()
    # The supervisor asks a silent worker for its stacks with this signal before it kills it.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    stop = StopFlag().install()
    folder = StudyFolder(arguments.study)
    run_ids = [name for name in arguments.runs.split(",") if name]
    try:
        # Before any status is written: that would make a folder out of a slip of the pen.
        _check_names(arguments, folder, run_ids)
    except RegattaError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    # Only the first of several processes on the same runs speaks for them.
    is_first = os.environ.get("RANK", "0") == "0" and arguments.shard[0] == 1
    spoken_for = [folder.run(name).status for name in run_ids] or [folder.prepare_status]
    status = StatusWriter(spoken_for if is_first else [])
    notes = RankNotes(folder, run_ids)
    try:
        _keep_in_place(folder, run_ids)
        status.start(arguments.task, place=_place(arguments.device))
        notes.forget_own()
        _work(arguments, folder, run_ids, stop, status, notes)
        return 0
    except StopRequested as error:
        words: dict[str, Any] = {"cause": "stopped", "message": error.what, "next_step": error.hint}
        _leave_words(lambda: status.end(state="interrupted", **words))
        _tell(f"stopped: {error}", sys.stdout)
        return stop.exit_code
    except Exception as error:  # noqa: BLE001 - the process's edge: log the whole trace, leave a status
        # A folder that has vanished makes errors of all kinds; it comes first.
        named = disk_fault(error, folder.path) or error
        if isinstance(named, RegattaError):
            return _fail(named, notes, status)
        _tell(traceback.format_exc())
        # Outside a step, which names its own: while the data or the model went to the device.
        memory = _is_out_of_memory(error)
        crash = {
            "cause": "out_of_memory" if memory else "crash",
            "message": f"{type(error).__name__}: {error}",
            "next_step": None if memory else "see log.txt beside this file",
            "exit_code": 1,
        }
        failure = notes.of_others() or crash
        _leave_words(lambda: status.end(state="failed", **failure))
        return failure["exit_code"]


def _keep_in_place(folder: StudyFolder, run_ids: list[str]) -> None:
    """Have writing fail once the study or a run of it has vanished under this process."""
    for path in [folder.path, *(folder.run(name).path for name in run_ids)]:
        if path.is_dir():
            keep_in_place(path)


def _fail(error: RegattaError, notes: RankNotes, status: StatusWriter) -> int:
    """Say what was raised on purpose, in the log and where observers look."""
    _tell(f"error: {error}")
    failure = {
        "cause": error.cause,
        "message": f"{error.what}{f' ({error.where})' if error.where else ''}",
        "next_step": error.hint,
        "exit_code": error.exit_code,
    }
    _leave_words(lambda: notes.leave(failure))
    _leave_words(lambda: status.end(state="failed", **failure))
    return error.exit_code


def _leave_words(write: Callable[[], None]) -> None:
    """What ended the work may also forbid to write of it: then the log and the exit code tell."""
    with suppress(RegattaError):
        write()


def _tell(text: str, stream: TextIO | None = None) -> None:
    """A line into the log, which may lie on the disk that is full or gone."""
    with suppress(OSError):
        print(text, file=stream or sys.stderr, flush=True)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    # Torch of a GPU has a class for it, that of a CPU a text.
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m regatta.worker", description=__doc__)
    parser.add_argument("task", choices=("prepare", "train", "judge"))
    parser.add_argument("--study", type=Path, required=True, help="folder of the study")
    parser.add_argument("--runs", "--run", default="", help="run ids, separated by commas")
    parser.add_argument(
        "--shard", type=_shard, default="1/1", help="which share of the samples to judge, I/N"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def _shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"'{text}' is not I/N with 1 <= I <= N")
    return int(number), int(count)


def _check_names(arguments: argparse.Namespace, folder: StudyFolder, run_ids: list[str]) -> None:
    """ForeignFolderError for no study, ConfigError for no run, UnknownNameError for a wrong one."""
    known = [spec.run_id for spec, _ in folder.runs()]
    if arguments.task != "prepare" and not run_ids:
        raise ConfigError("no run is named", hint=f"--runs {','.join(known)}")
    for run_id in run_ids:
        if run_id not in known:
            raise unknown_name("run", run_id, known, where=folder.study_yaml)


def _work(
    arguments: argparse.Namespace,
    folder: StudyFolder,
    run_ids: list[str],
    stop: StopFlag,
    status: StatusWriter,
    notes: RankNotes,
) -> None:
    if arguments.task == "prepare":
        from regatta.worker.prepare import prepare

        prepare(folder, stop, status)
        return
    import torch

    torch.set_num_threads(arguments.threads)
    device = _device(arguments.device)
    if arguments.task == "train":
        from regatta.worker.train import train

        def tell_failure(failure: dict[str, Any]) -> None:
            notes.leave(failure)
            status.end(state="failed", **failure)

        train(
            folder,
            run_ids[0],
            device=device,
            stop=stop,
            status=status,
            tell_failure=tell_failure,
        )
        return
    from regatta.worker.judge import judge

    number, count = arguments.shard
    judge(
        folder,
        run_ids,
        shard=(number - 1, count),
        device=device,
        threads=arguments.threads,
        stop=stop,
        status=status,
    )


def _place(device: str) -> str:
    """The devices in the machine's own numbers: inside, every worker counts from 0."""
    if not device.startswith("cuda"):
        return device.upper()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return f"GPU {visible.replace(',', '+')}" if visible else device


def _device(name: str) -> torch.device:
    """DeviceError unless torch can compute there."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"there is no device '{name}'", hint="cpu, or cuda:0") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"there is no device '{name}': torch sees {torch.cuda.device_count()} GPUs",
            hint="set launch.device: cpu, or look at: regatta doctor",
        )
    return device


if __name__ == "__main__":
    # No clean-up after this point is worth a hang: threads of libraries must not keep the process.
    # A crash writes its stack, which tells the supervisor what thread it was in.
    faulthandler.enable()
    open_board()
    code = main()
    with suppress(OSError):
        close_board()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)
