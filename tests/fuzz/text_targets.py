"""Study files, words of the command line and small records: text, read without torch."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from regatta.analysis.import_request import NAME, parse_request
from regatta.config.expand import expand_study
from regatta.config.fusion_names import FUSION_TYPES, canonical_fusion
from regatta.config.fusion_recipes import family_of
from regatta.config.launch import time_minutes
from regatta.config.load import (
    dump_study,
    load_study,
    read_study,
    study_from_mapping,
    with_overrides,
)
from regatta.config.strict_yaml import read_yaml
from regatta.core.errors import ConfigError
from regatta.core.files import append_json_line, read_json, write_json
from regatta.orchestrate.snapshot import StudyReader, study_json
from regatta.records.lease import holder, refuse_if_held
from regatta.records.metrics_stream import read_metrics, rewind_metrics
from regatta.records.run_folder import RunFolder, StudyFolder, open_study
from regatta.records.status import ProcessId, Status, observed, read_status
from regatta.records.submission import read_submission
from tests.fuzz.target import Case, Target, on_disk

REPO = Path(__file__).resolve().parents[2]
STUDY = """\
name: toy
title: "A toy: two entries"
data: {source: rotors, split_seed: 42, options: {frames: 8, size_px: 32}}
entries:
  - cnn3d
  - name: other
    model: cnn3d
    size: tiny
    checkpoint: none
    options: {frames: 4}
    train: {lr: 1e-3}
seeds: [0, 1]
train: &recipe
  epochs: 2
  batch_size: 4
  lr: 5e-4
  betas: [0.9, 0.999]
  precision: fp32
protocol: {name: temporal-grid, sample_size: 20, options: {coverage: [50, 100], stride: [1, 2]}}
compare: {replicates: 1000, confidence: 0.95, tuning_trials: {other: 3}}
launch:
  devices: 1
  time: "1-02:00:00"
  threads_per_run: 1
"""
FUSION = """\
name: fused
data: {source: cifar10, root: here}
fusion: {families: [resnet, densenet], types: [multiplicative, transformer-base], size: tiny,
  frozen: true, cells: null, alphas: [0.5], options: {image_size: 32}, expert_train: {epochs: 2},
  baselines: [full]}
partition: {kind: iid, experts: 4}
train: {epochs: 3, lr: 1e-3}
"""
YAML_WORDS = (
    *(b"&a ", b"*a", b"<<: *a", b"!!python/object:os.system ", b"!!binary ", b"!!set ", b"!!omap "),
    *(b"!!timestamp 2020-01-01", b"2020-01-01 00:00:00", b"---\n", b"...\n", b"%YAML 1.2\n", b"? "),
    *(
        b"extends: other.yaml\n",
        b"extends: /etc/passwd\n",
        b"entries:",
        b"name:",
        b"train:",
        b"| \n",
    ),
    *(
        b"on",
        b"yes",
        b"~",
        b"4:00:00",
        b"{",
        b"}",
        b"[",
        b"]",
        b": ",
        b"- ",
        b"\n  ",
        b"#",
        b"options",
    ),
    *(
        b"fusion",
        b"partition",
        b"imported",
        b"needs: [other]",
        b"loss: {}",
        b"seeds",
        b"checkpoint: ",
    ),
)
JSON_WORDS = (
    *(
        b'{"',
        b'":',
        b"NaN",
        b"-Infinity",
        b"1E400",
        b"[[",
        b"]]",
        b"null",
        b"true",
        b'"\\ud83d"',
        b"{}",
    ),
    *(b'"state": "running"', b'"process": {}', b'"pid": -1', b'"host": 7', b'"step": "x"', b"[]"),
)
_KNOWN_STATES = {
    *("pending", "queued", "starting", "running", "stopping", "done", "failed", "interrupted"),
    *("lost", "imported"),
}


def assert_plain(value: Any, depth: int = 0) -> None:
    """Only what JSON knows, dates aside, of bounded depth, without circles."""
    assert depth < 200, "nested without end"
    if isinstance(value, dict):
        for key, item in value.items():
            assert_plain(key, depth + 1)
            assert_plain(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            assert_plain(item, depth + 1)
    else:
        assert value is None or isinstance(value, (str, int, float)), type(value)


def _yaml(folder: Path) -> Case:
    texts = [STUDY, FUSION, "a: &x [1, 2]\nb: *x\nc: {<<: {d: 1}, e: 2.5e3}\n", "- 1\n- [a, b]\n"]

    def parse(_name: str, content: bytes) -> None:
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            return
        assert_plain(read_yaml(text, where="f.yaml"))

    return Case({f"{i}.yaml": text.encode() for i, text in enumerate(texts)}, parse)


def _study(folder: Path) -> Case:
    for name, text in {"toy": STUDY, "fused": FUSION}.items():
        (folder / f"{name}.yaml").write_text(text)
    for path in [*REPO.glob("studies/*.yaml"), *REPO.glob("studies/*/[a-m]*.yaml")]:
        if "extends" not in path.read_text():
            shutil.copy(path, folder / f"{path.parent.name}-{path.name}")

    def parse(name: str, _content: bytes) -> None:
        check_study(load_study(folder / name))

    return Case(on_disk(folder, lambda: None).files, parse, folder)


def check_study(study: Any) -> None:
    """What everything else relies on of a study that was read."""
    runs = expand_study(study)
    assert runs
    assert len({spec.run_id for spec in runs}) == len(runs)
    assert len({entry.name for entry in study.entries}) == len(study.entries)
    assert all(set(entry.needs) <= {e.name for e in study.entries} for entry in study.entries)
    assert "/" not in study.name
    assert not study.name.startswith(".")
    assert all("/" not in spec.run_id and not spec.run_id.startswith(".") for spec in runs)
    assert_finite(study.model_dump(mode="json"))
    again = study_from_mapping(read_yaml(dump_study(study), where="again"))
    written, read = study.model_dump(mode="json"), again.model_dump(mode="json")
    assert written == read, "a study that is written out reads back as another one"


def assert_finite(value: Any) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            assert_finite(item)
    elif isinstance(value, float):
        assert math.isfinite(value)


def _extends(folder: Path) -> Case:
    (folder / "base.yaml").write_text(STUDY)
    (folder / "middle.yaml").write_text("extends: base.yaml\nname: m\ntrain: {epochs: 5}\n")
    (folder / "top.yaml").write_text(
        "extends: middle.yaml\nname: t\n"
        "entries: {other: {options: {frames: 6}, train: {lr: 2e-3}}}\n"
        "data: {options: {noise: 0.1}}\n"
    )

    def parse() -> None:
        content = read_study(folder / "top.yaml")
        check_study(study_from_mapping(content, where=folder / "top.yaml"))

    return on_disk(folder, parse)


def _override(folder: Path) -> Case:
    path = folder / "toy.yaml"
    path.write_text(STUDY)
    texts = [
        *("train.epochs=3", "entries.other.options.frames=8", "entries=[other]", "seeds=[0,1,2]"),
        *("data.options.noise=0.5", "entries.other.train={lr: 1e-4}", "launch.device_ids=[0, 1]"),
        *("protocol.options={stride: [1]}", "title=a=b", "entries.cnn3d.needs=[other]"),
    ]

    def parse(_name: str, content: bytes) -> None:
        text = os.fsdecode(content)
        mapping = with_overrides(read_study(path), [text], where=path)
        check_study(study_from_mapping(mapping, where=path))

    return Case({f"{i}.txt": text.encode() for i, text in enumerate(texts)}, parse)


def _fusion(folder: Path) -> Case:
    def parse(_name: str, content: bytes) -> None:
        mapping = read_yaml(content.decode("utf-8", "replace"), where="fused.yaml")
        if not isinstance(mapping, dict):
            raise ConfigError("no mapping", where="fused.yaml")
        check_study(study_from_mapping({"name": "f", **mapping}, where="fused.yaml"))

    files = {"fused.yaml": FUSION.encode()}
    files["mixed.yaml"] = (
        FUSION.replace("frozen: true", "mixed: true").replace("experts: 4", "experts: 2").encode()
    )
    files["cells.yaml"] = FUSION.replace("cells: null", "cells: [resnet+concatenation]").encode()
    return Case(files, parse)


def _words(folder: Path) -> Case:
    """Names and settings as they are typed; the file's name says of which kind."""

    def fused(text: str) -> None:
        assert canonical_fusion(text, where="fusion.types") in FUSION_TYPES

    def time_limit(text: str) -> None:
        minutes = time_minutes(text)
        assert isinstance(minutes, int)
        assert minutes >= 0

    def imported(text: str) -> None:
        request = parse_request(text)
        assert NAME.fullmatch(request.name)
        assert request.seed is None or request.seed >= 0

    readers: dict[str, tuple[Callable[[str], Any], list[str]]] = {
        "fusion": (fused, ["multiplicative", "Transformer-Base", "simple_addition"]),
        "family": (lambda text: family_of(text, where="fusion.families"), ["resnet", "DenseNet"]),
        "time": (time_limit, ["1-02:03:04", "90", "10:00", "2-3", "1:00:00"]),
        "import": (imported, ["theirs@3=scores.csv", "a=b.npz", "x.csv", "my_model=/tmp/x=y.csv"]),
    }

    def parse(name: str, content: bytes) -> None:
        readers[name.partition(".")[0]][0](os.fsdecode(content))

    return Case(
        {f"{k}.{i}": t.encode() for k, (_, texts) in readers.items() for i, t in enumerate(texts)},
        parse,
    )


def _json(folder: Path) -> Case:
    write_json(folder / "a.json", {"a": [1, 2.5, None, True], "b": {"c": "é\n", "d": -1e9}})
    (folder / "b.json").write_text('[{"id": "1", "label": "x", "template": "[y] z"}]')

    def parse(name: str, _content: bytes) -> None:
        found = read_json(folder / name)
        write_json(folder / name, found)
        assert read_json(folder / name) == json.loads((folder / name).read_text())

    return Case(on_disk(folder, lambda: None).files, parse, folder)


def _metrics(folder: Path) -> Case:
    path = folder / "metrics.jsonl"
    for step in range(6):
        split = "validation" if step % 2 else "train"
        append_json_line(path, {"step": step, "split": split, "loss": 0.5, "accuracy": step / 6})

    def parse() -> None:
        found = read_metrics(path)
        assert all(isinstance(record, dict) for record in found)
        append_json_line(path, {"step": 9})
        assert read_metrics(path)[-1] == {"step": 9}
        rewind_metrics(path, after_step=3)
        assert all(record.get("step", 0) <= 3 for record in read_metrics(path))

    return on_disk(folder, parse)


def _status(folder: Path) -> Case:
    path = folder / "status.json"
    process = {"host": "elsewhere", "pid": 12, "started": "7", "boot": "x"}
    write_json(path, {**asdict(Status("running", "train", 3, 9)), "process": process})

    def parse() -> None:
        status = read_status(path)
        assert status.state in _KNOWN_STATES
        for name in ("step", "total_steps", "epoch", "epochs", "attempts"):
            value = getattr(status, name)
            assert type(value) is int, (name, value)
            assert value >= 0, (name, value)
        for name in ("samples_per_second", "seconds_left", "metric"):
            value = getattr(status, name)
            assert value is None or math.isfinite(value), (name, value)
        assert math.isfinite(status.heartbeat)
        assert observed(status).state in _KNOWN_STATES

    return on_disk(folder, parse)


def _lease(folder: Path) -> Case:
    path = folder / "lease.json"
    path.write_text(json.dumps(asdict(ProcessId("elsewhere", 12, "7", "x"))))
    (folder / "dead.json").write_text(
        json.dumps(asdict(ProcessId(os.uname().nodename, 1, "7", "x")))
    )

    def parse(name: str, _content: bytes) -> None:
        held = holder(folder / name)
        if held is not None:
            assert type(held.pid) is int
            assert isinstance(held.host, str)
            assert held.is_alive() in (True, False, None)
            if name == "lease.json" and held.host == "elsewhere":
                return
        refuse_if_held(folder / name)

    return Case(on_disk(folder, lambda: None).files, parse, folder)


def _submission(folder: Path) -> Case:
    stage = {"name": "train", "job_id": "17", "elements": [["a-s0-1"], ["a-s1-2"]]}
    record = {"token": "t", "state": "submitted", "stages": [stage], "submitted_at": 1e9}
    write_json(folder / "submission.json", {**record, "scheduler": "slurm"})

    def parse() -> None:
        found = read_submission(folder / "submission.json")
        if found:
            assert math.isfinite(found.submitted_at)
            assert found.state in ("submitting", "submitted", "closed")
            found.jobs_of("a-s0-1")

    return on_disk(folder, parse)


def _study_folder(folder: Path) -> Case:
    """A whole study folder: what `regatta status` makes of any damage to its small files."""
    study = study_from_mapping(read_yaml(STUDY, where="toy"), where="toy")
    opened = open_study(folder, study)
    (spec, run), *_ = opened.runs()
    process = {"host": "elsewhere", "pid": 12, "started": "7", "boot": "x"}
    write_json(run.status, {**asdict(Status("running", "train", 3, 9)), "process": process})
    for step in range(4):
        record = {"step": step, "split": "validation", "accuracy": step / 4, "loss": 1.0}
        append_json_line(run.metrics, record)
    write_json(opened.prepare_status, asdict(Status("done", "scan")))
    (opened.lease).write_text(json.dumps(process))
    names = ("study.yaml", "prepare.json", "lease.json", f"runs/{spec.run_id}/status.json")
    chosen = (*names, f"runs/{spec.run_id}/metrics.jsonl", f"runs/{spec.run_id}/run.json")

    def parse() -> None:
        view = StudyReader(StudyFolder(folder / "toy")).read(curves=True)
        json.dumps(study_json(view), allow_nan=False)
        assert all(math.isfinite(value) for row in view.rows for value in row.curve)
        facts = RunFolder(run.path).info()
        assert isinstance(facts, dict)

    return on_disk(folder, parse, *(f"toy/{name}" for name in chosen))


TARGETS = [
    Target("yaml", _yaml, YAML_WORDS, quick=600, soak=200_000),
    Target("study", _study, YAML_WORDS, quick=60, soak=15_000),
    Target("extends", _extends, YAML_WORDS, quick=150, soak=10_000),
    Target("override", _override, (*YAML_WORDS, b"=", b".", b"entries."), quick=150, soak=10_000),
    Target("fusion", _fusion, (*YAML_WORDS, b"+", b"resnet+multiplicative"), quick=100, soak=5_000),
    Target("words", _words, (b"=", b"@", b":", b"-", b"+"), quick=2000, soak=300_000),
    Target("json", _json, JSON_WORDS, quick=500, soak=60_000),
    Target("metrics", _metrics, JSON_WORDS, quick=300, soak=40_000),
    Target("status", _status, JSON_WORDS, quick=1000, soak=200_000),
    Target("lease", _lease, JSON_WORDS, quick=1000, soak=150_000),
    Target("submission", _submission, JSON_WORDS, quick=1000, soak=150_000),
    Target("study-folder", _study_folder, (*JSON_WORDS, *YAML_WORDS), quick=60, soak=5_000),
]
