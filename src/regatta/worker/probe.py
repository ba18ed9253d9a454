"""Measure a few steps and passes of one entry on generated input, for `regatta check`.

  python -m regatta.worker.probe --device cpu --threads 2 < request.json

The request is JSON: study, entry, folder (of a study whose data are read, or null), window
([C, L] or null), classes, memory_gib, seconds. Every fact is printed as one line of JSON as soon
as it is known, so that whoever loses patience keeps what there was. Weights are random: they
change no cost, and no network is asked.
Shapes: N samples, C channels, L samples of a window.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regatta.config.expand import RunSpec, trained_runs
from regatta.config.load import study_from_mapping
from regatta.config.schema import Study
from regatta.core.errors import RegattaError
from regatta.core.seeds import derive_seed
from regatta.evaluation.protocols import Protocol, resolve_protocol
from regatta.models.contracts import EncodesOnce, FitsDirectly, FitsStatistics
from regatta.models.parameters import freeze_encoder
from regatta.models.spec import ModelSpec, resolve_model
from regatta.records.profile_table import OUT_OF_MEMORY, ProfileRow
from regatta.records.run_folder import StudyFolder
from regatta.training.checkpoint import SLOTS_KEPT
from regatta.training.optimizers import moments_of
from regatta.training.profile import Pace, Subject, Unit
from regatta.training.profile_memory import is_out_of_memory
from regatta.worker.profile_subject import EntryProfile, any_targets

FEED_SAMPLES = 8
"""Generated samples that batches are filled with, again and again."""
NOMINAL_FRAMES, NOMINAL_FPS = 100, 25.0
"""Of the clip that a protocol's views are counted on."""
FEW = 2
"""Samples of the first try, which tells whether a whole batch can be measured in the time."""
CALLS = 5
"""At the study's batch: a first one, a warm-up and three timed ones."""


class _Telling:
    """Prints facts as they come; knows how much time is left and the highest memory so far."""

    def __init__(self, *, seconds: float, memory_gib: float, device: torch.device) -> None:
        self._ends, self._device = time.monotonic() + seconds, device
        self.limit = int(memory_gib * 2**30) if device.type == "cpu" else None
        self._host = self._device_gib = 0.0
        self.status = "ok"
        self.tell(host_gib=self._seen_host())

    def tell(self, **facts: Any) -> None:
        print(json.dumps(facts), flush=True)

    def left(self) -> float:
        return self._ends - time.monotonic()

    def count(self, row: ProfileRow) -> bool:
        """Take a row's memory in; False when memory ran out, which is told."""
        if row.status == OUT_OF_MEMORY:
            self.status = OUT_OF_MEMORY
            self.tell(status=self.status, message=f"{row.stage}, batch {row.batch}")
            return False
        if self._device.type == "cuda":
            self._device_gib = max(self._device_gib, _gib(row.reserved_gb))
            self._host = self._seen_host()
        else:
            # The meter resets what the system counts, so the highest is kept here.
            self._host = max(self._host, self._seen_host(), _gib(row.peak_gb))
        self.tell(host_gib=self._host, device_gib=self._device_gib or None)
        return True

    @staticmethod
    def _seen_host() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def probe(request: dict[str, Any], *, device: torch.device) -> None:
    """Tell what the entry costs; see the module's text for the request.

    Raises:
        RegattaError: the entry cannot be built, or the device lacks its number format.
    """
    telling = _Telling(seconds=request["seconds"], memory_gib=request["memory_gib"], device=device)
    study = study_from_mapping(request["study"], where="the probe's request")
    run_spec = next(s for s in trained_runs(study) if s.entry.name == request["entry"])
    entry = run_spec.entry.model_copy(update={"checkpoint": "none"})
    run_spec = replace(run_spec, entry=entry)
    window = tuple(request["window"]) if request["window"] else None
    subject = generated_subject(run_spec, device, window=window, classes=request["classes"])
    folder = StudyFolder(Path(request["folder"] or "."))
    bench = EntryProfile(folder, study, run_spec, device)
    bench.whole = subject
    facts = bench.facts()
    kept = {key: facts[key] for key in ("parameters", "batch_size", "precision", "stages")}
    telling.tell(**kept, **disk_facts(subject), passes_per_sample=_passes(study, subject.spec))
    # The cheapest first: of a slow entry then at least that is known.
    judging = Unit("forward", study.protocol.batch_size, _judging_precision(device))
    is_whole = _measure(bench, "judge", judging, telling, share=0.4)
    is_whole &= _measure_training(bench, facts, telling)
    telling.tell(memory_is_whole=is_whole)
    if request["folder"] and subject.spec.kind == "video" and "step" in facts["stages"]:
        _measure_loading(bench, facts["batch_size"], telling)
    telling.tell(status=telling.status)


def generated_subject(
    run_spec: RunSpec, device: torch.device, *, window: tuple[int, int] | None, classes: int
) -> Subject:
    """The entry's model with random weights, and noise of the shape that it takes.

    Args:
        window: (C, L) of the data; None for videos, or the model's own default.
    """
    entry, train = run_spec.entry, run_spec.train
    spec = resolve_model(entry, classes, seed=run_spec.seed, window=window)
    module = spec.build(classes)
    is_fitted = isinstance(module, FitsDirectly)
    if train.freeze_encoder and not is_fitted:
        freeze_encoder(module, spec)
    if train.augment == "reference" and hasattr(module, "picture_augment"):
        setattr(module, "picture_augment", True)  # noqa: B010 - nn.Module has no such field
    generator = torch.Generator().manual_seed(derive_seed(0, "probe"))
    if spec.kind in ("video", "scene"):
        shape = (FEW, *spec.input_shape)
        inputs = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    else:
        inputs = torch.randn(FEED_SAMPLES, *spec.input_shape, generator=generator)
    if isinstance(module, FitsStatistics) and spec.reads == "signals":
        module.fit_statistics(inputs)
    return Subject(
        entry.name,
        module,
        spec,
        train.model_copy(update={"parallel": "none"}),
        device,
        inputs,
        torch.arange(len(inputs)) % classes,
        has_scores=False,
        targets=any_targets(module, len(inputs)),
    )


def disk_facts(subject: Subject) -> dict[str, int]:
    """Bytes of the model, of one resume point, of all that a run keeps, and of its fullest moment.

    As `training.checkpoint.ensure_free_space` counts them.
    """
    whole, train = subject.module, subject.train
    model = _tensor_bytes(whole)
    if isinstance(whole, FitsDirectly):
        return {
            "model_bytes": model,
            "checkpoint_bytes": 0,
            "kept_bytes": model,
            "disk_bytes": model,
        }
    on_features = train.freeze_encoder and train.feature_cache and isinstance(whole, EncodesOnce)
    trained = whole.head if on_features and isinstance(whole, EncodesOnce) else whole
    weights = _tensor_bytes(trained)
    each = moments_of(train.optimizer) + (train.ema is not None)
    slot = weights + each * 4 * sum(p.numel() for p in trained.parameters() if p.requires_grad)
    for_good = train.epochs // train.keep_every_epochs if train.keep_every_epochs else 0
    kept = (SLOTS_KEPT + for_good) * slot + weights + model
    return {
        "model_bytes": model,
        "checkpoint_bytes": slot,
        "kept_bytes": kept,
        "disk_bytes": kept + slot + weights,
    }


def _tensor_bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def _passes(study: Study, spec: ModelSpec) -> int:
    """Forward passes of one judged sample, when no two of its clips are the same."""
    protocol = resolve_protocol(study.protocol)
    if not isinstance(protocol, Protocol):
        return len(protocol.conditions)
    return sum(
        len(
            protocol.plan_views(
                NOMINAL_FRAMES, NOMINAL_FPS, condition, spec.frames, sample_id="any"
            )
        )
        for condition in protocol.conditions
    )


def _judging_precision(device: torch.device) -> str:
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def _measure_training(bench: EntryProfile, facts: dict[str, Any], telling: _Telling) -> bool:
    """Whether all of it was measured with whole batches."""
    names, is_whole = {"encode": "encode", "step": "train"}, True
    for stage, name in names.items():
        if stage in facts["stages"]:
            unit = Unit(stage, facts["batch_size"], facts["precision"])
            is_whole &= _measure(bench, name, unit, telling, share=0.8)
    return is_whole


def _measure(
    bench: EntryProfile, name: str, unit: Unit, telling: _Telling, *, share: float
) -> bool:
    """Tell `{name}_seconds` per sample and the batch that it was measured at.

    A whole batch is measured where a small one says that there is time for it. Returns whether
    one was: its memory is known only then.

    Args:
        share: of the time that is left.
    """
    few, seconds = min(FEW, unit.batch), share * telling.left()
    pace = Pace(0, 3, 0.5)
    row = bench.measure(replace(unit, batch=few), pace=pace, memory_limit=telling.limit)
    if not telling.count(row) or row.median_ms is None:
        return False
    each = row.median_ms / 1000 / few
    telling.tell(**{f"{name}_seconds": each, f"{name}_batch": few})
    if few == unit.batch:
        return True
    if CALLS * each * unit.batch > seconds:
        note = f"measured with {few} of a batch of {unit.batch}, which takes too long"
        telling.tell(**{f"{name}_note": note})
        return False
    row = bench.measure(unit, pace=Pace(1, 3, seconds / 2), memory_limit=telling.limit)
    if not telling.count(row) or row.median_ms is None:
        return False
    telling.tell(
        **{f"{name}_seconds": row.median_ms / 1000 / unit.batch, f"{name}_batch": unit.batch}
    )
    return True


def _measure_loading(bench: EntryProfile, batch: int, telling: _Telling) -> None:
    """Seconds per sample of the training loader in its first epoch, where every clip is decoded."""
    if telling.left() <= 0:
        return
    pace = Pace(1, 4, telling.left() / 2)
    row = bench.measure(Unit("load", batch, ""), pace=pace, memory_limit=None)
    if row.windows_per_second:
        telling.tell(load_seconds=1 / row.windows_per_second)


def _gib(gigabytes: float | None) -> float:
    return (gigabytes or 0.0) * 1e9 / 2**30


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m regatta.worker.probe", description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        probe(json.loads(sys.stdin.read()), device=torch.device(arguments.device))
    except RegattaError as error:
        print(json.dumps({"status": "failed", "message": str(error)}), flush=True)
        return error.exit_code
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(json.dumps({"status": OUT_OF_MEMORY, "message": "building the model"}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
