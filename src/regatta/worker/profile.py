"""Profile the entries of a study on one device.

  python -m regatta.worker.profile --study DIR --request FILE --progress FILE --device cpu

The request is JSON: {"study": mapping, "entries": [name], "memory_gib": number}. Each row is
appended to the progress file as soon as it is measured; results/profile.{json,csv} come last.
Exit codes: 0 good, 1 failed, 2 usage or data, 3 environment.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from regatta.config.expand import RunSpec, trained_runs
from regatta.config.load import study_from_mapping
from regatta.config.schema import ProfileSection, Study
from regatta.core.errors import RegattaError
from regatta.core.files import append_json_line, read_json
from regatta.records.profile_table import OUT_OF_MEMORY, ProfileRow, write_profile
from regatta.records.run_folder import StudyFolder
from regatta.training.profile import Pace, Unit
from regatta.worker.profile_child import ChildCrashed, MeasuringChild
from regatta.worker.profile_subject import EntryProfile

TIMED = ("encode", "forward", "backward", "step")
COMPILED = ("forward", "step")
FAILED = "failed"


def profile(
    folder: StudyFolder,
    study: Study,
    entries: Sequence[str],
    *,
    device: str,
    threads: int,
    memory_gib: float,
    tell: Callable[[ProfileRow], None],
) -> None:
    """Measure every entry and write the tables; nothing is written when an entry cannot be built.

    Args:
        device: as torch names it.
        memory_gib: most memory that a measurement on a CPU may hold.
        tell: called with each row.
    Raises:
        RegattaError: by kind, as training the entry would.
    """
    if device == "cpu":
        _load_libraries()
    # Other work on this machine makes every figure worse: the record says how much there was.
    load = os.getloadavg()[0]
    rows: list[ProfileRow] = []
    known: dict[str, dict[str, Any]] = {}
    for spec in _first_runs(study, entries):
        bench = _Bench(folder, study, spec, device, threads, memory_gib)
        try:
            facts = bench.facts()
            known[spec.entry.name] = facts
            for row in bench.rows(plan_units(study.profile, facts, on_gpu=device != "cpu")):
                rows.append(row)
                tell(row)
        finally:
            bench.close()
    machine = next(iter(known.values()))["machine"]
    write_profile(
        folder,
        {
            "study": study.name,
            **machine,
            "threads": threads,
            "load_before": load,
            "memory_limit_gb": None if device != "cpu" else memory_gib * 2**30 / 1e9,
            "settings": study.profile.model_dump(mode="json"),
            "entries": {
                name: {k: v for k, v in facts.items() if k != "machine"}
                for name, facts in known.items()
            },
            "not_measured": not_measured(study.profile, known, on_gpu=device != "cpu"),
        },
        rows,
    )


def _load_libraries() -> None:
    """Import once what every measuring process would import for itself."""
    for name in ("pandas", "pyarrow.parquet", "torch._dynamo"):
        importlib.import_module(name)
    # Objects of modules are no garbage: collections in the children need not look at them.
    gc.collect()
    gc.freeze()


def _first_runs(study: Study, entries: Sequence[str]) -> list[RunSpec]:
    """The first run of each entry: seeds cost the same."""
    first: dict[str, RunSpec] = {}
    for spec in trained_runs(study):
        first.setdefault(spec.entry.name, spec)
    return [first[name] for name in entries]


def plan_units(settings: ProfileSection, facts: dict[str, Any], *, on_gpu: bool) -> list[Unit]:
    """The measurements of one entry, in order.

    Args:
        facts: `batch_size`, `precision`, `precisions` and `stages` of the entry.
    """
    batch, own = facts["batch_size"], facts["precision"]
    timed = settings.precisions or facts["precisions"]
    stages = [stage for stage in settings.stages if stage in facts["stages"]]
    units = [Unit("load", batch, "")] if "load" in stages else []
    for stage in (stage for stage in TIMED if stage in stages):
        units += [Unit(stage, batch, name) for name in dict.fromkeys(timed)]
        if on_gpu and stage in COMPILED:
            name = own if own in timed else timed[0]
            units.append(Unit(stage, batch, name, compiled=True))
    if "sweep" in stages:
        for name in dict.fromkeys(settings.precisions or [own]):
            units += [Unit("sweep", size, name) for size in sorted(set(settings.batch_sizes))]
    return units


def not_measured(
    settings: ProfileSection, known: dict[str, dict[str, Any]], *, on_gpu: bool
) -> list[str]:
    """What the tables do not say, and why."""
    texts = []
    for name, facts in known.items():
        lacking = [s for s in settings.stages if s not in facts["stages"] and s != "encode"]
        if lacking:
            texts.append(f"{name}: {', '.join(lacking)}: it is solved for, not trained in steps")
    if not on_gpu:
        texts.append("torch.compile, fp16, share of peak, reserved memory: only on a GPU")
    elif not next(iter(known.values()))["has_published_peak"]:
        texts.append("share of peak: the published rate of this device is not known")
    texts.append("several devices: the profile is of one")
    return texts


class _Bench:
    """Where the measurements of one entry are made: in a process each on a CPU, where only a new
    process forgets a peak; in one process on a GPU, as long as it lives."""

    def __init__(
        self,
        folder: StudyFolder,
        study: Study,
        spec: RunSpec,
        device: str,
        threads: int,
        memory_gib: float,
    ) -> None:
        pace = Pace(study.profile.warmup, study.profile.timed, study.profile.seconds)
        on_cpu = device == "cpu"
        limit = int(memory_gib * 2**30) if on_cpu else None
        self._make = partial(_make_answer, folder, study, spec, device, threads, pace, limit)
        self._entry, self._one_each = spec.entry.name, on_cpu
        self._child: MeasuringChild | None = None

    def facts(self) -> dict[str, Any]:
        return self._ask("facts")

    def rows(self, units: Sequence[Unit]) -> Iterator[ProfileRow]:
        """One row per unit; a sweep ends with the first batch that found no memory."""
        ended: set[str] = set()
        for unit in units:
            if unit.stage == "sweep" and unit.precision in ended:
                continue
            row = self._row(unit)
            if unit.stage == "sweep" and row.status != "ok":
                ended.add(unit.precision)
            yield row

    def _row(self, unit: Unit) -> ProfileRow:
        try:
            return self._ask(unit)
        except ChildCrashed as error:
            # The kernel ends a process that takes too much with SIGKILL.
            status = OUT_OF_MEMORY if "SIGKILL" in str(error) else FAILED
            return unit.row(self._entry, status=status, message=str(error))

    def _ask(self, request: Any) -> Any:
        self._child = self._child or MeasuringChild(self._make)
        try:
            return self._child.ask(request)
        except ChildCrashed:
            self.close()
            raise
        finally:
            if self._one_each:
                self.close()

    def close(self) -> None:
        if self._child:
            self._child.close()
        self._child = None


def _make_answer(
    folder: StudyFolder,
    study: Study,
    spec: RunSpec,
    device_name: str,
    threads: int,
    pace: Pace,
    memory_limit: int | None,
) -> Callable[[Any], Any]:
    """What a measuring process does: `facts`, or the row of a unit."""
    torch.set_num_threads(threads)
    device = torch.device(device_name)
    on_gpu = device.type == "cuda"
    entry = EntryProfile(folder, study, spec, device)

    def answer(request: Any) -> Any:
        if isinstance(request, Unit):
            return entry.measure(request, pace=pace, memory_limit=memory_limit)
        machine = {
            "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
            "torch": torch.__version__,
        }
        for name in study.profile.precisions or ():
            entry.check_precision(name)
        return {"machine": machine, **entry.facts()}

    return answer


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m regatta.worker.profile", description=__doc__)
    parser.add_argument("--study", type=Path, required=True, help="folder of the study")
    parser.add_argument("--request", type=Path, required=True)
    parser.add_argument("--progress", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    try:
        request = read_json(arguments.request)
        profile(
            StudyFolder(arguments.study),
            study_from_mapping(request["study"], where=arguments.request),
            request["entries"],
            device=arguments.device,
            threads=arguments.threads,
            memory_gib=request["memory_gib"],
            tell=lambda row: append_json_line(arguments.progress, asdict(row)),
        )
    except RegattaError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except ChildCrashed as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    except Exception:  # noqa: BLE001 - the process's edge: log the whole trace
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    # Threads of libraries must not keep the process.
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
