"""A worker that learns nothing: it counts steps, saves them, and obeys orders to crash or hang.

It keeps the worker's contract, with few imports: tests start hundreds of it.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from regatta.core.errors import RegattaError
from regatta.core.files import append_json_line, keep_in_place, read_json, write_json, write_text
from regatta.core.signals import StopFlag
from regatta.records.metrics_stream import append_metrics
from regatta.records.status import Status, read_status, this_process, write_status

STEP_SECONDS = 0.02
STEPS, HOLDING = 5, 99
ROOT = Path(os.environ["REGATTA_TOY_ORDERS"])
FACTS = json.loads((ROOT / "facts.json").read_text())


def next_order(kind: str, names: list[str], **facts: Any) -> str:
    """Record this start and look up what it should do."""
    orders, order = json.loads((ROOT / "orders.json").read_text()), "ok"
    for name in names:
        counter = ROOT / f"{kind}-{name}.starts"
        number = counter.stat().st_size if counter.is_file() else 0
        with open(counter, "a") as handle:
            handle.write(".")
        queue = orders.get(f"{kind}:{name}", [])
        order = queue[number] if number < len(queue) else "ok"
        if order != "ok":
            break
    me = this_process()
    record = {"kind": kind, "names": names, "order": order, "argv": sys.argv, **facts}
    keys = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "RANK", "MASTER_PORT")
    record |= {"pid": me.pid, "started": me.started, "env": {k: os.environ.get(k) for k in keys}}
    append_json_line(ROOT / "starts.jsonl", record)
    return order


def obey(order: str, stop: StopFlag, runs: list[Path]) -> None:
    """Carry out what an order says beyond normal work."""
    action, _, argument = order.partition(":")
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "exit":
        print("ValueError: the toy was told to fail", flush=True)
        sys.exit(int(argument))
    elif action == "fail":
        for run in runs:
            write_state(run, state="failed", cause=argument, message="told to")
        sys.exit(1)
    elif action == "hang":
        while True:
            time.sleep(60)
    elif action == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            say_running(runs, step=HOLDING)
            time.sleep(STEP_SECONDS)
    elif action == "leave":
        sys.exit(0)
    elif action == "hold":
        while not (ROOT / "release").exists() and not stop.requested:
            say_running(runs, step=HOLDING)
            time.sleep(STEP_SECONDS)


def write_state(run: Path, **fields: Any) -> None:
    path = run / "status.json"
    write_status(path, replace(read_status(path), **fields))


def say_running(runs: list[Path], **fields: Any) -> None:
    for run in runs:
        me = asdict(this_process())
        write_state(run, state="running", total_steps=STEPS, process=me, **fields)


def leave_if_asked(stop: StopFlag, runs: list[Path]) -> None:
    if stop.requested:
        for run in runs:
            write_state(run, state="interrupted", process=None)
        sys.exit(stop.exit_code)


def prepare(study: Path, stop: StopFlag) -> None:
    obey(next_order("prepare", ["data"]), stop, [])
    leave_if_asked(stop, [])
    write_text(study / "manifest.parquet", "a manifest")
    counts = {split: {"a": 20, "b": 20} for split in ("train", "validation", "test")}
    write_json(study / "data.json", {"settings": FACTS["settings"], "counts": counts})


def train(run: Path, stop: StopFlag) -> None:
    saved = run / "checkpoints" / "step.json"
    begin = read_json(saved)["step"] if saved.is_file() else 0
    order = next_order("train", [FACTS["entries"][run.name]], begin=begin)
    # As in a real worker the first rank alone speaks for the run: another on a cut-off machine
    # would overwrite how it ended.
    told = [run] if os.environ.get("RANK", "0") == "0" else []
    for step in range(begin + 1, STEPS + 1):
        say_running(told, step=step, phase="train")
        time.sleep(STEP_SECONDS)
        write_json(saved, {"step": step})
        record = {"step": step, "split": "validation", "accuracy": step / 10}
        append_metrics(run / "metrics.jsonl", record)
        if step == 2 or begin >= 2:
            obey(order, stop, told)
        leave_if_asked(stop, told)
    for first in told:
        write_json(first / "training_results.json", {"steps": STEPS})
        write_state(first, state="queued", phase="judge", process=None)


def judge(runs: list[Path], shard: str, stop: StopFlag) -> None:
    names = [FACTS["entries"][run.name] for run in runs]
    order = next_order("judge", names, shard=shard)
    number, _, count = shard.partition("/")
    told = runs if number == "1" else []
    say_running(told, step=1, phase="judge")
    obey(order, stop, told)
    leave_if_asked(stop, told)
    for run in runs:
        parts = run / "predictions" / FACTS["protocol"]
        write_text(parts / f"shard-{number}", "scores")
        if len(list(parts.glob("shard-*"))) >= int(count):
            write_json(parts / "complete.json", {"parts": {}})
            write_status(run / "status.json", Status(state="done", metric=0.5))


def main() -> None:
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["prepare", "train", "judge"])
    for name in ("--study", "--run", "--runs", "--shard", "--device", "--threads"):
        parser.add_argument(name)
    given = parser.parse_args()
    stop, study = StopFlag().install(), Path(given.study)
    named = [study / "runs" / run for run in (given.runs or given.run or "").split(",") if run]
    for folder in (study, *named):
        keep_in_place(folder)
    try:
        work(given, study, stop)
    except RegattaError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


def work(given: argparse.Namespace, study: Path, stop: StopFlag) -> None:
    if given.kind == "prepare":
        prepare(study, stop)
    elif given.kind == "train":
        train(study / "runs" / given.run, stop)
    else:
        judge([study / "runs" / run for run in given.runs.split(",")], given.shard, stop)


if __name__ == "__main__":
    main()
