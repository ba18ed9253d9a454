"""`regatta evaluate`: the judging half of `run`."""

from __future__ import annotations

import typer

from regatta.cli.arguments import RUNS, AsJson, Overrides, Runs
from regatta.cli.flags import (
    DataName,
    Device,
    JudgeBatch,
    Models,
    Name,
    ProtocolName,
    Root,
    SampleSize,
    StudyTarget,
    read_flags,
)
from regatta.cli.run import launch


def evaluate(
    study: StudyTarget = None,
    models: Models = None,
    data: DataName = None,
    root: Root = None,
    name: Name = None,
    protocol: ProtocolName = None,
    sample_size: SampleSize = None,
    batch_size: JudgeBatch = None,
    device: Device = None,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Judge every trained run that this protocol has not judged yet, then compare and report.

    Without a study, the one of --name or --data under --runs is taken, or the only one.

    regatta evaluate --model all --protocol temporal-grid --sample-size 1000
    """
    keys = {
        "data.root": root,
        "protocol.name": protocol,
        "protocol.sample_size": sample_size,
        "protocol.batch_size": batch_size,
        "launch.device": device,
    }
    flags = read_flags(models, data=data, name=name, keys=keys, overrides=overrides)
    code = launch(study, flags=flags, runs=runs, as_json=as_json, only=("prepare", "judge"))
    if code:
        raise typer.Exit(code)
