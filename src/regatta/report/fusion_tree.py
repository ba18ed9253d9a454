"""Trained experts and fusions as the tree of files that users of the reference scripts know.

    expert_training/checkpoints/<model>/expert_<k>_best.safetensors
    <model>_fusions/<type>/experts/<model>_expert_<k>_best.safetensors     as trained along
                          /fusion/<model>_<type>_fusion_best.safetensors
                          /global/<model>_<type>_global_head_best.safetensors
    results/csv_logs/...                                                   where they were written

Every tensor is copied as it lies in the run's own file; alpha and seed enter the names only where
the study has more than one. Nothing is pickled.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regatta.config.expand import RunSpec
from regatta.config.fusion_recipes import FAMILIES
from regatta.config.schema import Study
from regatta.core.errors import ConfigError, RecordError
from regatta.core.files import atomic_path, ensure_writable, read_json, write_json
from regatta.records.run_folder import RunFolder, StudyFolder

WEIGHTS = "model.safetensors"
MIXED = "mixed"
_NOTHING = "\0"
"""Starts no name."""


@dataclass(frozen=True)
class TreeFile:
    """One file of the tree, with the run whose weights it holds."""

    path: Path
    run_id: str


def export_fusion_tree(folder: StudyFolder, to: Path) -> list[TreeFile]:
    """Write the tree of all trained experts and fusions of a study under `to`.

    Each file appears whole or not at all; a file of the same name is replaced.

    Raises:
        ConfigError: the study fuses nothing.
        RecordError: nothing is trained, or a model file is damaged.
        DiskError: `to` cannot be written.
    """
    study = folder.study()
    fused = [(spec, run) for spec, run in folder.runs() if spec.entry.model == "fusion"]
    if not fused:
        raise ConfigError(
            "this study has no fusion to write as a tree",
            where=f"study {study.name}",
            hint="leave --layout out for a folder per model",
        )
    experts = {name for spec, _ in fused for name in spec.entry.needs}
    trained = [(spec, run) for spec, run in fused if run.is_trained()]
    alone = [
        (spec, run)
        for spec, run in folder.runs()
        if spec.entry.name in experts and run.is_trained()
    ]
    if not trained and not alone:
        raise RecordError(
            "no expert and no fusion of this study is trained",
            where=folder.path,
            hint="finish the study with: regatta run <study file>",
        )
    ensure_writable(to)
    written = [_write_expert(study, spec, run, to) for spec, run in alone]
    written += [file for spec, run in trained for file in _write_system(study, spec, run, to)]
    return [*written, *_copy_logs(folder, to)]


def tree_name(spec: RunSpec) -> str:
    """The model of an entry as the tree calls it: densenet, resnet ... or mixed."""
    options = spec.entry.options
    model = options.get("family") if spec.entry.model == "fusion" else spec.entry.model
    return next((family.tree_name for family in FAMILIES if family.model == model), MIXED)


def _suffix(study: Study, spec: RunSpec, *, alpha: bool) -> str:
    """What tells runs of one model and type apart, where the study has several."""
    section, parts = study.fusion, []
    if alpha and section is not None and len(section.alphas or []) > 1:
        parts.append(f"_alpha{spec.train.loss.alpha:g}")
    if len(study.seeds) > 1:
        parts.append(f"_seed{spec.seed}")
    return "".join(parts)


def _write_expert(study: Study, spec: RunSpec, run: RunFolder, to: Path) -> TreeFile:
    number = str(spec.entry.part or spec.entry.name).rpartition("-")[2]
    name = f"expert_{number}{_suffix(study, spec, alpha=False)}_best.safetensors"
    path = to / "expert_training" / "checkpoints" / tree_name(spec) / name
    _write(path, _read(run), run, {"run": spec.run_id})
    return TreeFile(path, spec.run_id)


def _write_system(study: Study, spec: RunSpec, run: RunFolder, to: Path) -> Iterator[TreeFile]:
    model, kind = tree_name(spec), str(spec.entry.options.get("type", "fusion"))
    end = _suffix(study, spec, alpha=True)
    base = to / f"{model}_fusions" / kind
    tensors = _read(run)
    for place, (prefix, without) in _parts(tensors).items():
        name = {
            "fusion": f"{model}_{kind}{end}_fusion_best",
            "global": f"{model}_{kind}{end}_global_head_best",
        }.get(place, f"{model}_expert_{place}{end}_best")
        path = base / (place if place in ("fusion", "global") else "experts")
        path = path / f"{name}.safetensors"
        held = {
            key.removeprefix(prefix): tensor
            for key, tensor in tensors.items()
            if key.startswith(prefix) and not key.startswith(without)
        }
        facts = {"run": spec.run_id, "alpha": f"{spec.train.loss.alpha:g}", "type": kind}
        _write(path, held, run, facts)
        yield TreeFile(path, spec.run_id)


def _parts(tensors: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Part of a fused system -> prefix of its tensors, and that of others under it. The fusion
    holds adapters and new individual heads too."""
    numbers = sorted({int(k.split(".")[1]) for k in tensors if k.startswith("experts.")})
    experts = {str(number): (f"experts.{number}.", _NOTHING) for number in numbers}
    return {
        **experts,
        "fusion": ("head.", "head.classifier."),
        "global": ("head.classifier.", _NOTHING),
    }


def _read(run: RunFolder) -> dict[str, Any]:
    """The run's tensors as arrays; RecordError when they cannot be read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(run.model / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise RecordError(
            f"the trained weights cannot be read: {error}",
            where=run.model / WEIGHTS,
            hint=f"train it anew: regatta run <study file> --restart {run.run_id}",
        ) from error


def _write(path: Path, tensors: dict[str, Any], run: RunFolder, facts: dict[str, str]) -> None:
    from safetensors.numpy import save

    with atomic_path(path) as temporary:
        # Written here: the library's own writer hides a full disk behind an error of its own.
        temporary.write_bytes(save(tensors, metadata={"format": "pt", **facts}))
    write_json(path.with_suffix(".json"), {**facts, "config": read_json(run.model / "config.json")})


def _copy_logs(folder: StudyFolder, to: Path) -> list[TreeFile]:
    logs = folder.results / "csv_logs"
    copied = []
    for log in sorted(logs.rglob("*.csv")) if logs.is_dir() else []:
        target = to / "results" / "csv_logs" / log.relative_to(logs)
        with atomic_path(target) as temporary:
            shutil.copyfile(log, temporary)
        copied.append(TreeFile(target, ""))
    return copied
