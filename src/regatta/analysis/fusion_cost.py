"""What every network of a fusion study cost, and every system with all the networks it needs.

A fused system paid for its experts too, so their training counts as its own; at inference it runs
all of them, which its own parameters and operations already hold. None = not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from regatta.analysis.budget import device_seconds, training_flops
from regatta.analysis.fusion_systems import BASELINES, FUSED, WORDS, Fused
from regatta.analysis.judged import JudgedRun, JudgedStudy

GIB_IN_GB = 1.073741824
SUMMED = ("train_flops", "images_seen", "device_seconds")
COSTS = ("parameters", "macs_per_image", *SUMMED, "peak_gb")
COST_COLUMNS = ("run", *COSTS, "kind", "system", "entry", "seed")
MACS = "half the operations of one forward pass"


def run_cost(run: JudgedRun) -> dict[str, float | None]:
    """COSTS of one run. `macs_per_image` is `MACS`; `train_flops` is an estimate."""
    training = run.training
    flops, peak = training.get("flops_per_clip"), training.get("peak_memory_gib")
    return {
        "parameters": training.get("parameters"),
        "macs_per_image": None if flops is None else flops / 2,
        "train_flops": training_flops(training),
        "images_seen": training.get("samples_seen"),
        "device_seconds": device_seconds(training),
        "peak_gb": None if peak is None else GIB_IN_GB * peak,
    }


def cost_rows(judged: JudgedStudy, fusions: Sequence[Fused]) -> list[dict[str, Any]]:
    """A row per run, then one per fused system and seed, and one per average of experts."""
    rows = [
        {
            **run_cost(run),
            "kind": "run",
            "system": run.entry,
            "entry": run.entry,
            "seed": run.seed,
            "run": run.run_id,
        }
        for run in judged.runs
    ]
    done = set()
    for fused in fusions:
        for seed in fused.systems[FUSED].seeds:
            rows.append(_system_row(judged, fused, seed, FUSED))
            if (key := (tuple(fused.entry.needs), seed)) not in done:
                done.add(key)
                rows.append(_system_row(judged, fused, seed, "original-logits"))
    return rows


def _system_row(judged: JudgedStudy, fused: Fused, seed: int, system: str) -> dict[str, Any]:
    by_place = {(run.entry, run.seed): run for run in judged.runs}
    experts = [by_place.get((name, seed)) for name in fused.entry.needs]
    own = by_place[(fused.entry.name, seed)] if system == FUSED else None
    return {
        **system_cost(experts, own),
        "kind": "system",
        "system": WORDS[system],
        "entry": fused.entry.name if own else " ".join(fused.entry.needs),
        "seed": seed,
        "run": own.run_id if own else None,
    }


def system_cost(
    experts: Sequence[JudgedRun | None], fusion: JudgedRun | None
) -> dict[str, float | None]:
    """Training of all its runs summed, the largest peak; at inference those of the fusion, or
    without one the sum of the experts'. None as soon as one part is not known."""
    runs = [*experts, *([fusion] if fusion else [])]
    empty: dict[str, float | None] = dict.fromkeys(COSTS)
    costs = [empty if run is None else run_cost(run) for run in runs]
    own = run_cost(fusion) if fusion else None
    found: dict[str, float | None] = {}
    for key in COSTS:
        known = [cost[key] for cost in costs if cost[key] is not None]
        whole = len(known) == len(costs)
        if key in ("parameters", "macs_per_image") and own is not None:
            found[key] = own[key]
        elif key == "peak_gb":
            found[key] = max(known) if whole else None  # type: ignore[type-var]
        else:
            found[key] = float(sum(known)) if whole else None  # type: ignore[arg-type]
    return found


def mean_costs(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Mean over seeds, None as soon as one is not measured."""
    found: dict[str, float | None] = {}
    for key in COSTS:
        values = [row[key] for row in rows]
        known = [value for value in values if value is not None]
        found[key] = sum(known) / len(known) if known and len(known) == len(values) else None
    return found


def system_costs(
    fused: Fused, rows: Sequence[dict[str, Any]]
) -> dict[str, dict[str, float | None]]:
    """Mean cost over seeds of the fused system, the average of its experts and its baselines."""
    needs = " ".join(fused.entry.needs)

    def of(kind: str, entry: str) -> dict[str, float | None]:
        return mean_costs([r for r in rows if r["kind"] == kind and r["entry"] == entry])

    found = {FUSED: of("system", fused.entry.name), "original-logits": of("system", needs)}
    for baseline in BASELINES:
        if fused.systems[baseline].values_SN is not None:
            found[baseline] = of("run", fused.names[baseline])
    return found
