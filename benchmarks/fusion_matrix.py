"""A matrix of families x fusion types as one study, beside one separate job per cell.

    .venv/bin/python benchmarks/fusion_matrix.py [--repeats 1] [--workers 0] [--judge test]
    .venv/bin/python benchmarks/fusion_matrix.py --quick

Both sides train four experts per family and one fusion per cell and test every fusion: the same
networks, first weights, parts of the pictures, epochs, batches, rates and changes of the pictures,
on the same cores.
  ours      `regatta run`: experts once per family, pictures resident and changed by the batch, runs
            packed one per core. Timed to the last judged run; statistics and report come after that
            and are printed apart, since the separate jobs have none.
  separate  `plain_fusion.py` once per cell, one after the other with all cores: every job trains
            its own four experts, every picture goes through Pillow and a DataLoader, and every
            epoch of experts and fusion ends with the test pictures, as in the reference study.
            `--judge validation` puts our validation pictures in their place. The printed ratio
            without those passes is the one to quote if one blames the jobs for nothing but how they
            train.

First one epoch of both sides, without random changes and in the same order, must give the same
weights of every expert and every fusion. Timed trainings draw other random changes on each side, so
of them accuracies are printed, not compared.

The saving is then taken apart: sharing (the jobs' own seconds with the experts of a family
counted once), pipeline (those against our study with one run at a time on all cores, starts of
processes included), packing (that against ours). Of a CPU's time a network's arithmetic is the most
on both sides, so the pipeline saves little there; a GPU is what starves behind it.

As it stands, 4 x 4 tiny cells of 2,000 pictures take about three quarters of an hour on 2 cores.
--quick (2 x 2 cells, few pictures) shows that all works: starts of processes are most of its time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from plain_fusion import Job, build, train_expert, train_fusion
from plain_pictures import CLASSES, Stock, write_cifar
from safetensors.torch import load_file

from regatta.config.expand import RunSpec
from regatta.config.load import study_from_mapping
from regatta.core.files import read_json
from regatta.core.seeds import derive_seed
from regatta.core.signals import StopFlag
from regatta.data.image_store import ImageStore
from regatta.data.manifest import Manifest
from regatta.records.run_folder import RunFolder, StudyFolder, open_study
from regatta.worker.prepare import prepare
from regatta.worker.status_writer import StatusWriter
from regatta.worker.train import train

FAMILIES = ["resnet", "improved-wide-resnet", "densenet", "resnext"]
TYPES = ["multiplicative", "concatenation", "simpleAddition", "TransformerBase"]
NAME, TARGET, TOLERANCE = "matrix", 4.0, 1e-4
CHECK = {"augment": "none", "mixup": 0.0, "cutmix": 0.0, "optimizer": "sgd"}
CHECK_RATES = {"expert_train": 0.002, "fusion_train": 0.02}
"""Rounding alone moves weights by a whole AdamW step where a gradient is nearly zero, and parts the
sides within few steps of the full rate, as it does two hand-written loops."""
CHECK_PICTURES = 600
HERE = Path(__file__).parent


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_cifar(root / "data", train=options.train, test=options.train // 5)
        check_equal(root / "check", options)
        turns: dict[str, list[Any]] = {"ours": [], "alone": [], "separate": []}
        for turn in range(options.repeats):
            place = root / f"turn-{turn}"
            turns["ours"].append(run_study(place / "ours", options, packed=True))
            turns["separate"].append(run_jobs(place / "separate", options, place / "ours"))
            turns["alone"].append(run_study(place / "alone", options, packed=False))
        report(turns, options)


def study_of(root: Path, options: argparse.Namespace, *, check: bool, packed: bool) -> dict:
    """The mapping of the study; its experts and fusions have the recipes of `studies/fusion`."""
    epochs = (1, 1) if check else (options.expert_epochs, options.fusion_epochs)
    change = CHECK if check else {}
    common = {"batch_size": 64, "warmup_epochs": 0, **change}
    cores = len(os.sched_getaffinity(0))
    rates = {key: {"lr": rate} if check else {} for key, rate in CHECK_RATES.items()}
    return {
        "name": NAME,
        "data": {"source": "cifar10", "root": str(root / "data")},
        "fusion": {
            "size": options.size,
            "families": FAMILIES[: options.families],
            "types": TYPES[: options.types],
            "augment": "same-for-all",
            "adapt_lr": False,
            "baselines": [],
            "expert_train": {**common, **rates["expert_train"], "epochs": epochs[0]},
            "fusion_train": {**common, **rates["fusion_train"], "epochs": epochs[1]},
        },
        "protocol": {
            "name": "image-robustness",
            "batch_size": 250,
            "options": {"corruptions": "none", "noise": []},
        },
        "launch": {
            "device": options.device,
            "devices": 1 / options.per_gpu if options.device == "cuda" and packed else 1,
            "max_parallel": (options.per_gpu if options.device == "cuda" else cores)
            if packed
            else 1,
            "threads_per_run": 1 if packed else cores,
            "memory_gib_per_run": 1.0,
        },
    }


@dataclass(frozen=True)
class Ours:
    """One study: seconds to the last judged run, of the whole command, and test accuracies."""

    judged: float
    whole: float
    accuracy: list[float]


def run_study(place: Path, options: argparse.Namespace, *, packed: bool) -> Ours:
    """`regatta run` on an empty folder."""
    place.mkdir(parents=True)
    content = study_of(place.parent.parent, options, check=False, packed=packed)
    (place / "study.yaml").write_text(json.dumps(content))
    command = [sys.executable, "-m", "regatta", "run", str(place / "study.yaml"), "--runs"]
    began, started = time.time(), time.perf_counter()
    done = subprocess.run([*command, str(place)], capture_output=True, text=True, check=False)
    whole = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"the study ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    folder = StudyFolder(place / NAME)
    last = max(read_json(run.status)["heartbeat"] for _, run in folder.runs())
    return Ours(last - began, whole, test_accuracies(folder))


def test_accuracies(folder: StudyFolder) -> list[float]:
    """Of every fusion on the clean test pictures."""
    from regatta.records.predictions import read_part

    found = []
    for spec, run in folder.runs():
        if not spec.needs:
            continue
        right, count = 0, 0
        for path in run.path.glob("predictions/*/part-*.parquet"):
            table, scores = read_part(path)
            right += int((scores.argmax(1) == table["label"].to_numpy()).sum())
            count += len(scores)
        found.append(right / count)
    return found


def run_jobs(place: Path, options: argparse.Namespace, study: Path) -> list[dict[str, Any]]:
    """Every cell as a job of its own, one after the other; figures with the seconds of each."""
    place.mkdir(parents=True)
    folder, figures = StudyFolder(study / NAME), []
    stock_of(folder).save(place / "stock.npz")
    for plan in plans(folder):
        own = place / f"job-{len(figures)}"
        own.mkdir()
        job = {
            **plan,
            "stock": str(place / "stock.npz"),
            "folder": str(own),
            "classes": CLASSES,
            "judged": options.judge,
            "workers": options.workers,
            "threads": len(os.sched_getaffinity(0)),
            "device": options.device,
        }
        (own / "job.json").write_text(json.dumps(job))
        command = [sys.executable, str(HERE / "plain_fusion.py"), str(own / "job.json")]
        started = time.perf_counter()
        subprocess.run(command, check=True)
        wall = time.perf_counter() - started
        figures.append({**read_json(own / "result.json"), "wall": wall, "family": plan["family"]})
    return figures


def stock_of(folder: StudyFolder) -> Stock:
    """The pictures of a prepared study as the separate jobs read them."""
    store, manifest = ImageStore.load(folder.images), Manifest.load(folder.manifest)
    rows = {name: part.numpy() for name, part in store.parts.items()}
    rows |= {split: store.rows(manifest.split(split)).numpy() for split in ("validation", "test")}
    labels = {sample.sample_id: sample.label for sample in manifest.samples}
    return Stock(
        store.images.permute(0, 2, 3, 1).contiguous().numpy(),
        torch.tensor([labels[name] for name in store.ids]).numpy(),
        rows,
        torch.tensor(store.mean, dtype=torch.float64).numpy(),
        torch.tensor(store.std, dtype=torch.float64).numpy(),
    )


def plans(folder: StudyFolder) -> list[dict[str, Any]]:
    """Of every fusion: what its job trains, with the recipes and seeds of the study's own runs."""
    runs = {spec.run_id: spec for spec, _ in folder.runs()}
    return [
        {
            "experts": [planned(runs[needed]) for needed in spec.needs],
            "fusion": planned(spec),
            "family": runs[spec.needs[0]].entry.model,
        }
        for spec in runs.values()
        if spec.needs
    ]


def planned(spec: RunSpec) -> dict[str, Any]:
    entry, is_expert = spec.entry, spec.entry.role == "expert"
    return {
        "entry": entry.model_dump(include={"name", "model", "size", "options"}, mode="json"),
        "part": entry.part,
        "seed": derive_seed(spec.seed, entry.part or "") if is_expert else spec.seed,
        "train": spec.train.model_dump(mode="json"),
    }


def check_equal(place: Path, options: argparse.Namespace) -> None:
    """Stop unless one unchanged epoch gives both sides the same weights of all networks."""
    write_cifar(place / "data", train=CHECK_PICTURES, test=100)
    content = study_of(place, options, check=True, packed=False)
    folder, device = open_study(place, study_from_mapping(content)), torch.device(options.device)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        prepare(folder, StopFlag(), StatusWriter([]))
        runs = sorted(folder.runs(), key=lambda pair: bool(pair[0].needs))
        for spec, run in runs:
            status = StatusWriter([run.status])
            train(folder, spec.run_id, device=device, stop=StopFlag(), status=status)
    stock, experts = stock_of(folder), {}
    gaps: dict[str, list[float]] = {"expert": [], "fusion": []}
    changes = []
    for spec, run in runs:
        plan, kind = planned(spec), "fusion" if spec.needs else "expert"
        job = Job(stock, [], plan, CLASSES, "validation", fixed=True, device=device)
        if spec.needs:
            first = build(plan, CLASSES).state_dict()
            module = train_fusion(job, [experts[name] for name in spec.needs], place / "plain")
            changes.append(moved(first, module.state_dict(), "head.fusion"))
        else:
            module = experts[spec.run_id] = train_expert(job, plan, place / "plain")
        gaps[kind].append(largest_gap(module.state_dict(), run))
    worst, least = {kind: max(found) for kind, found in gaps.items()}, min(changes)
    if max(worst.values()) > TOLERANCE or least < 5 * TOLERANCE:
        raise SystemExit(f"the sides learn differently: {worst}, moved by {least:.1e}")
    print(
        f"  equal: {len(gaps['expert'])} experts within {worst['expert']:.1e}, "
        f"{len(gaps['fusion'])} fusions within {worst['fusion']:.1e} after an epoch without random "
        f"changes, which moved fusions by {least:.1e} or more",
        flush=True,
    )


def moved(first: dict[str, torch.Tensor], last: dict[str, torch.Tensor], part: str) -> float:
    """Largest change of a tensor in `part`."""
    return max(
        (last[key].cpu() - tensor).abs().max().item()
        for key, tensor in first.items()
        if key.startswith(part)
    )


def largest_gap(state: dict[str, torch.Tensor], run: RunFolder) -> float:
    """Largest difference from the saved weights, where those are above 1 as a share of them."""
    saved = load_file(run.model / "model.safetensors")
    if saved.keys() != state.keys():
        raise SystemExit(f"other tensors: {sorted(saved.keys() ^ state.keys())[:4]}")
    return max(
        ((state[key].cpu() - tensor).abs() / tensor.abs().clamp(min=1)).max().item()
        for key, tensor in saved.items()
        if tensor.is_floating_point()
    )


def report(turns: dict[str, list[Any]], options: argparse.Namespace) -> None:
    """Seconds, ratios turn by turn, and what each cause gives."""
    ratios: dict[str, list[float]] = {"whole": [], "no test": [], "command": []}
    causes: dict[str, list[float]] = {"sharing": [], "pipeline": [], "packing": []}
    for ours, jobs, alone in zip(*(turns[k] for k in ("ours", "separate", "alone")), strict=True):
        separate = sum(job["wall"] for job in jobs)
        shared = separate - repeated_seconds(jobs)
        passes = sum(
            seconds for job in jobs for key, seconds in job["seconds"].items() if "judged" in key
        )
        ratios["whole"].append(separate / ours.judged)
        ratios["no test"].append((separate - passes) / ours.judged)
        ratios["command"].append(separate / ours.whole)
        causes["sharing"].append(separate / shared)
        causes["pipeline"].append(shared / alone.judged)
        causes["packing"].append(alone.judged / ours.judged)
        print(
            f"  ours {ours.judged:.0f} s to the last judged run ({ours.whole:.0f} s with "
            f"statistics and report), one run at a time {alone.judged:.0f} s; {len(jobs)} separate "
            f"jobs {separate:.0f} s, of which {passes:.0f} s judge every epoch's {options.judge}"
        )
        mean = [statistics.mean(f) for f in (ours.accuracy, [job["accuracy"] for job in jobs])]
        print(f"  mean test accuracy of the fusions: ours {mean[0]:.3f}, separate {mean[1]:.3f}")
    middle = {name: statistics.median(found) for name, found in (ratios | causes).items()}
    met = "met" if middle["whole"] >= TARGET else "MISSED"
    verdict = "a dry run" if options.quick else f"target {TARGET:g} x: {met}"
    print(
        f"separate / ours {middle['whole']:.2f} x ({min(ratios['whole']):.2f}-"
        f"{max(ratios['whole']):.2f}), {verdict}; without the passes after every epoch "
        f"{middle['no test']:.2f} x, with our statistics and report {middle['command']:.2f} x"
    )
    print(
        f"causes: experts shared {middle['sharing']:.2f} x, pipeline and starts of processes "
        f"{middle['pipeline']:.2f} x, packing {middle['packing']:.2f} x"
    )


def repeated_seconds(jobs: list[dict[str, Any]]) -> float:
    """What jobs spend on experts that another job of the family has trained already."""
    seen: set[str] = set()
    repeated = 0.0
    for job in jobs:
        if job["family"] in seen:
            repeated += sum(
                seconds for key, seconds in job["seconds"].items() if key.startswith("experts")
            )
        seen.add(job["family"])
    return repeated


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--families", type=int, default=4, help="the first so many of four")
    parser.add_argument("--types", type=int, default=4, help="the first so many of four")
    parser.add_argument("--size", choices=["tiny", "small", "base"], default="tiny")
    parser.add_argument("--train", type=int, default=2000, help="training pictures, in all")
    parser.add_argument("--expert-epochs", type=int, default=10)
    parser.add_argument("--fusion-epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="of the separate jobs' loaders")
    parser.add_argument("--judge", choices=["test", "validation"], default="test")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--per-gpu", type=int, default=4, help="runs that share a GPU")
    parser.add_argument("--quick", action="store_true", help="2 x 2 cells, few pictures")
    options = parser.parse_args()
    if options.quick:
        options.families = options.types = 2
        options.train, options.expert_epochs, options.fusion_epochs = 600, 2, 1
    torch.set_num_threads(1)
    return options


if __name__ == "__main__":
    main()
