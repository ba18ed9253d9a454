"""`regatta train`: the training half of `run`."""

from __future__ import annotations

import typer

from regatta.cli.arguments import RUNS, AsJson, Overrides, Runs
from regatta.cli.flags import (
    Accumulate,
    Checkpoint,
    DataName,
    Device,
    Devices,
    Epochs,
    LearningRate,
    Models,
    Name,
    Parallel,
    Root,
    Seeds,
    Size,
    StudyTarget,
    TrainBatch,
    read_flags,
)
from regatta.cli.run import Restart, launch


def train(
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
    device: Device = None,
    devices: Devices = None,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    restart: Restart = None,
    as_json: AsJson = False,
) -> None:
    """Train what is not trained yet; judging and comparing are left to `evaluate` or `run`.

    regatta train study.yaml --epochs 1

    regatta train --model all --data ucf101 --root UCF101_data --epochs 5

    torchrun --nproc_per_node=2 -m regatta train --model videomae --data ucf101 --parallel ddp
    """
    keys = {
        "data.root": root,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.lr": lr,
        "train.accumulate": accumulate,
        "train.parallel": parallel,
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
    only = ("prepare", "train")
    code = launch(study, flags=flags, runs=runs, restart=restart, as_json=as_json, only=only)
    if code:
        raise typer.Exit(code)
