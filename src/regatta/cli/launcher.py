"""`regatta run` with nothing said, on a terminal: questions, a study file, the equal command.

Answers are read as numbers and names, never as code. Nothing is written before the last question
is answered.
"""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from regatta.cli.arguments import RUNS
from regatta.core.errors import ConfigError, RegattaError

if TYPE_CHECKING:
    from regatta.config.schema import Study, TrainSection
    from regatta.orchestrate.devices import Machine

T = TypeVar("T")
INTERRUPTED_EXIT, ENDED_EXIT = 130, 2
_WHOLE = re.compile(r"[0-9]{1,9}")
_NUMBER = re.compile(r"[0-9]*\.?[0-9]+([eE][-+]?[0-9]{1,3})?")


@dataclass(frozen=True)
class Offer:
    """A study file that can be chosen."""

    path: Path
    told: str


@dataclass(frozen=True)
class Launch:
    """What was answered: the file that was written, and whether to start it."""

    path: Path
    starts: bool


def is_on_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask_launch(runs: Path) -> Launch:
    """Ask for a study and its settings, write the study file and show the equal command.

    Raises:
        typer.Exit: 130 for Ctrl-C and 2 for Ctrl-D, at any question.
        ConfigError: the answers contradict each other or the study.
    """
    try:
        return _ask_launch(runs)
    except KeyboardInterrupt:
        typer.echo("\nleft; nothing was started")
        raise typer.Exit(INTERRUPTED_EXIT) from None
    except EOFError:
        typer.echo("\nno answer; nothing was started")
        raise typer.Exit(ENDED_EXIT) from None


def _ask_launch(runs: Path) -> Launch:
    from regatta.config.load import load_study

    path = _ask_study(offers(Path("studies")))
    study = load_study(path)
    changes = _ask_settings(study)
    overrides = [f"{key}={_as_yaml(value)}" for key, value in changes.items()]
    chosen = load_study(path, overrides)
    _check_startable(chosen, runs)
    words = ["regatta", "run", str(path), *(w for text in overrides for w in ("--set", text))]
    if runs != RUNS:
        words += ["--runs", str(runs)]
    command = shlex.join(words)
    written = write_launch(chosen, command)
    typer.echo(f"\nwrote {written}\nthe same as: {command}")
    starts = _ask("start? [y/N]", "n", _yes_or_no, shows_default=False)
    if not starts:
        typer.echo(f"not started; later: regatta run {shlex.quote(str(written))}")
    return Launch(written, starts)


def offers(folder: Path) -> list[Offer]:
    """The study files under `folder` and those that come with Regatta, by path."""
    here = sorted(folder.rglob("*.yaml")) if folder.is_dir() else []
    built_in = Path(str(files("regatta.cli") / "studies"))
    found = [(path, "") for path in here]
    found += [(path, ", comes with Regatta") for path in sorted(built_in.glob("*.yaml"))]
    return [Offer(path, f"{_title(path)}{note}") for path, note in found]


def _title(path: Path) -> str:
    from regatta.config.load import load_study

    try:
        study = load_study(path)
    except RegattaError as error:
        return f"does not load: {error.what[:80]}"
    return study.title or f"{len(study.entries)} entries on {study.data.source}"


def _ask_study(found: Sequence[Offer]) -> Path:
    width = max((len(_shown(offer.path)) for offer in found), default=0)
    for number, offer in enumerate(found, 1):
        typer.echo(f"{number:>3}  {_shown(offer.path):<{width}}  {offer.told}")
    default = "1" if found else None
    return _ask("study (a number, or the path of a file)", default, lambda t: _study(t, found))


def _shown(path: Path) -> str:
    """A file of the installation by its name alone: its folder tells a person nothing."""
    return path.name if path.is_absolute() else str(path)


def _study(text: str, found: Sequence[Offer]) -> Path:
    from regatta.cli.check import check_checkpoint_folders, check_data_folder
    from regatta.config.load import load_study

    if _WHOLE.fullmatch(text):
        if not 1 <= int(text) <= len(found):
            raise ValueError(f"there are the numbers 1 to {len(found)}")
        path = found[int(text) - 1].path
    else:
        path = Path(text).expanduser()
    try:
        study = load_study(path)
        # No later question could mend these.
        check_data_folder(study)
        check_checkpoint_folders(study)
    except RegattaError as error:
        raise ValueError(str(error)) from error
    return path


def _ask_settings(study: Study) -> dict[str, Any]:
    """The dotted keys whose answers differ from the study."""
    from regatta.orchestrate.devices import describe_gpus, this_machine

    machine = this_machine(study.launch)
    typer.echo(describe_gpus(machine))
    devices, gpu_ids = _ask_devices(study, machine)
    train = study.train
    parallel = _ask_parallel(train.parallel, devices, on_gpu=bool(machine.gpus))
    batch = _ask("batch per device", str(train.batch_size), lambda t: _whole(t, lowest=1))
    epochs = _ask("epochs", str(train.epochs), lambda t: _whole(t, lowest=1))
    effective = batch * train.accumulate * max(1, round(devices))
    lr = _ask_rate(study, effective, _shares(batch, train.accumulate, devices))
    for note in _kept_by_entries(study):
        typer.echo(note)
    given = {
        "launch.devices": devices,
        "launch.device_ids": gpu_ids,
        "train.parallel": parallel,
        "train.batch_size": batch,
        "train.epochs": epochs,
        "train.lr": lr,
    }
    return {key: value for key, value in given.items() if value != _value(study, key)}


def _ask_devices(study: Study, machine: Machine) -> tuple[float, list[int] | None]:
    """Devices per run, and the GPUs that may be used where they were named."""
    launch = study.launch
    here = [gpu.index for gpu in machine.gpus]
    most = len(here) or machine.cores
    default = ",".join(map(str, launch.device_ids or [])) if launch.devices > 1 and here else ""
    default = default or f"{min(launch.devices, most):g}"
    words = "GPUs per run (a number, or their indices: 0,1)" if here else "processes per run"

    def parse(text: str) -> tuple[float, list[int] | None]:
        if text == default and "," not in text:
            return float(text), launch.device_ids
        if "," in text and here:
            indices = [_whole(part.strip(), lowest=0) for part in text.split(",")]
            if not set(indices) <= set(here) or len(set(indices)) < len(indices):
                raise ValueError(f"there are the GPUs {', '.join(map(str, here))}, each once")
            return len(indices), indices
        return _whole(text, lowest=1, most=most), launch.device_ids

    return _ask(words, default, parse)


def _ask_parallel(own: str, devices: float, *, on_gpu: bool) -> str:
    """How a run uses its devices; a question only where there is a choice."""
    choices = parallel_choices(devices, on_gpu=on_gpu)
    if own == "fsdp" and devices > 1:
        choices = (*choices, own)
    if len(choices) == 1:
        typer.echo(f"parallel: {choices[0]}, the only way with {devices:g} of them here")
        return choices[0]
    default = own if own in choices else choices[0]
    return _ask(f"parallel ({' / '.join(choices)})", default, lambda t: _one_of(t, choices))


def parallel_choices(devices: float, *, on_gpu: bool) -> tuple[str, ...]:
    """What can work: one device needs nothing; `dp` is for GPUs of one process."""
    if devices <= 1:
        return ("none",)
    return ("ddp", "dp") if on_gpu else ("ddp",)


def _shares(batch: int, accumulate: int, devices: float) -> str:
    return f"{batch} x {accumulate} accumulated x {max(1, round(devices))} devices"


def _ask_rate(study: Study, effective: int, words: str) -> float:
    train = study.train
    own = train.batch_size * train.accumulate * max(1, round(study.launch.devices))
    typer.echo(f"effective batch {effective} = {words}; the study's own is {own}")
    if train.scale_lr != "none":
        typer.echo(f"train.scale_lr is {train.scale_lr}: the trainer scales the rate itself")
        proposed = train.lr
    else:
        proposed = linear_rate(train, effective, own)
        if proposed != train.lr:
            typer.echo(f"linear rule: {train.lr:g} x {effective} / {own} = {proposed:g}")
    return _ask("learning rate", f"{proposed:g}", _rate)


def linear_rate(train: TrainSection, effective: int, own: int) -> float:
    """The study's rate times the ratio of effective batches, to six digits.

    Source: Goyal et al. 2017, Accurate, large minibatch SGD, section 2.1.
    """
    return train.lr if effective == own else float(f"{train.lr * effective / own:.6g}")


def _kept_by_entries(study: Study) -> list[str]:
    """Entries whose own keys stand above these answers."""
    asked = {"batch_size", "epochs", "lr", "parallel"}
    kept = {entry.name: sorted(asked & set(entry.train)) for entry in study.entries}
    return [f"{name} keeps its own {', '.join(keys)}" for name, keys in kept.items() if keys]


def _value(study: Study, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(study, section), name)


def _check_startable(study: Study, runs: Path) -> None:
    """ConfigError and its kin for what `regatta check` would refuse, before anything is written."""
    from regatta.evaluation.protocols import check_protocol
    from regatta.orchestrate.plan import plan_study
    from regatta.records.run_folder import StudyFolder, check_ours

    folder = StudyFolder(runs / study.name)
    check_protocol(study)
    check_ours(folder, study)
    plan_study(folder, study)


def write_launch(study: Study, command: str) -> Path:
    """Write the study as `<name>-launch.yaml` here; a file of another content keeps its name."""
    from regatta.config.load import dump_study
    from regatta.core.files import write_text

    text = f"# Written by `regatta run`; the same as\n#   {command}\n{dump_study(study)}"
    for number in range(1, 1000):
        path = Path(f"{study.name}-launch{'' if number == 1 else f'-{number}'}.yaml")
        if path.is_file() and path.read_text(encoding="utf-8", errors="replace") == text:
            return path
        if not path.exists():
            write_text(path, text)
            return path
    raise ConfigError("there are 999 launch files of this study here", hint="delete some of them")


def _ask(
    question: str, default: str | None, parse: Callable[[str], T], *, shows_default: bool = True
) -> T:
    """Ask until the answer can be read; Enter takes the default."""
    shown = f" [{default}]" if default is not None and shows_default else ""
    while True:
        text = input(f"{question}{shown}: ").strip() or default
        if text is None:
            typer.echo("  this question has no default")
            continue
        try:
            return parse(text)
        except ValueError as error:
            typer.echo(f"  {error}")


def _whole(text: str, *, lowest: int, most: int | None = None) -> int:
    if not _WHOLE.fullmatch(text) or int(text) < lowest or (most and int(text) > most):
        span = f"from {lowest} to {most}" if most else f"from {lowest} on"
        raise ValueError(f"'{text}' is not a whole number {span}")
    return int(text)


def _rate(text: str) -> float:
    value = float(text) if _NUMBER.fullmatch(text) else 0.0
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"'{text}' is not a number above 0")
    return value


def _one_of(text: str, choices: Sequence[str]) -> str:
    if text not in choices:
        raise ValueError(f"'{text}' is not one of {', '.join(choices)}")
    return text


def _yes_or_no(text: str) -> bool:
    answers = {"y": True, "yes": True, "n": False, "no": False}
    if text.lower() not in answers:
        raise ValueError(f"'{text}' is neither y nor n")
    return answers[text.lower()]


def _as_yaml(value: Any) -> str:
    """A number, a name or a list of numbers, as `--set` reads it."""
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) and value.is_integer() else str(value)
