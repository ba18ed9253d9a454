"""`regatta profile`: what the entries of a study cost on this device, measured anew each time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regatta.cli.arguments import RUNS, AsJson, Overrides, Runs
from regatta.cli.flags import Device, Models, Root, StudyTarget, read_flags
from regatta.core.errors import ConfigError

if TYPE_CHECKING:
    from regatta.config.schema import Study

Batches = Annotated[
    str | None,
    typer.Option("--batch", metavar="N,N", help="Batches of the sweep: profile.batch_sizes."),
]
Precisions = Annotated[
    str | None,
    typer.Option("--precision", metavar="NAME,NAME", help="fp32, bf16, fp16: profile.precisions."),
]


def profile(
    study: StudyTarget = None,
    models: Models = None,
    batch: Batches = None,
    precision: Precisions = None,
    root: Root = None,
    device: Device = None,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Measure time and memory of each entry: loader, forward, backward, step, and growing batches
    until memory ends. Every call measures anew; the tables in results/ are replaced.

    regatta profile study.yaml --model cnn1d --batch 8,16,32 --precision fp32,bf16

    regatta profile study.yaml --set profile.stages=[forward] --set profile.timed=20
    """
    keys = {
        "data.root": root,
        "launch.device": device,
        "profile.batch_sizes": None if batch is None else _numbers(batch),
        "profile.precisions": None if precision is None else _words(precision),
    }
    flags = read_flags(models, keys=keys, overrides=overrides)
    code = _profile(study, flags, runs, as_json=as_json, sweeps=batch is not None)
    if code:
        raise typer.Exit(code)


def _profile(target: Path | None, flags: Any, runs: Path, *, as_json: bool, sweeps: bool) -> int:
    from regatta.cli.check import check_checkpoint_folders, check_data_folder
    from regatta.cli.choose import choose_study
    from regatta.core.signals import StopFlag
    from regatta.orchestrate.profile import open_profile_folder, profile_study
    from regatta.records.profile_table import read_profile

    chosen = choose_study(target, flags, runs, may_build=False)
    study = _with_sweep(chosen.study) if sweeps else chosen.study
    check_data_folder(study)
    check_checkpoint_folders(study)
    stop = StopFlag().install()
    folder = open_profile_folder(chosen.runs_root, study)
    earlier = folder.results / "profile.json"
    if earlier.is_file():
        _say(f"measuring anew; {earlier} is replaced at the end")
    code = profile_study(
        folder, study, chosen.entries, stop=stop, echo=_say, show=lambda row: _say(_line(row))
    )
    if code:
        _say("stopped; nothing is written")
        return code
    content = read_profile(folder)
    assert content is not None
    if as_json:
        import json

        typer.echo(json.dumps(content, indent=1))
        return 0
    _print(content)
    typer.echo(f"{folder.results / 'profile.csv'}\n{earlier}")
    return 0


def _with_sweep(study: Study) -> Study:
    """The study with the sweep among its stages: batches were named for it."""
    stages = study.profile.stages
    if "sweep" in stages:
        return study
    settings = study.profile.model_copy(update={"stages": [*stages, "sweep"]})
    return study.model_copy(update={"profile": settings})


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    words = _words(text)
    wrong = [word for word in words if not word.isdecimal() or int(word) < 1]
    if wrong or not words:
        raise ConfigError(
            f"a batch is a whole number from 1 on, got '{(wrong or [text])[0]}'",
            where="--batch",
            hint="for example --batch 8,16,32",
        )
    return [int(word) for word in words]


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _line(row: dict[str, Any]) -> str:
    """One measurement in words."""
    what = " ".join(
        part
        for part in (
            row["entry"],
            row["stage"],
            row["precision"],
            "compiled" if row["compiled"] else "",
        )
        if part
    )
    if row["status"] != "ok":
        return f"{what}, batch {row['batch']}: {row['status']}: {row['message']}"
    return (
        f"{what}, batch {row['batch']}: {row['median_ms']:.3g} ms, "
        f"{row['windows_per_second']:.4g} windows/s"
    )


HEADERS = (
    ("entry", "entry"),
    ("stage", "stage"),
    ("batch", "batch"),
    ("precision", "format"),
    ("median_ms", "median ms"),
    ("p10_ms", "p10"),
    ("p90_ms", "p90"),
    ("windows_per_second", "windows/s"),
    ("peak_gb", "peak GB"),
    ("mb_per_window", "MB/window"),
    ("largest_difference", "difference"),
    ("share_of_peak", "of peak"),
    ("status", "status"),
)
_TEXT_COLUMNS = {"entry", "stage", "precision", "status"}


def _print(content: dict[str, Any]) -> None:
    """The table, then what it does not say."""
    typer.echo(
        f"{content['device']}, torch {content['torch']}, {content['threads']} threads; "
        f"load of the machine before: {content['load_before']:.1f}"
    )
    cells = [[_cell(row, key) for key, _ in HEADERS] for row in content["rows"]]
    titles = [title for _, title in HEADERS]
    filled = [any(row[i] for row in cells) for i in range(len(titles))]
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    for line in (titles, *cells):
        parts = [
            text.ljust(width) if key in _TEXT_COLUMNS else text.rjust(width)
            for text, width, (key, _), keep in zip(line, widths, HEADERS, filled, strict=True)
            if keep
        ]
        typer.echo("  ".join(parts).rstrip())
    for text in content["not_measured"]:
        typer.echo(f"not measured: {text}")


def _cell(row: dict[str, Any], key: str) -> str:
    value = row[key]
    if key == "precision" and row["compiled"]:
        return f"{value} compiled"
    if value is None:
        return ""
    if key == "share_of_peak":
        return f"{100 * value:.0f} %"
    if key == "largest_difference":
        return f"{value:.1e}" if value else "0"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
