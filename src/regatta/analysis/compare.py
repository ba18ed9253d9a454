"""One comparison: read the judged runs of a study, judge the entries, write results/.

`comparison.json` holds everything a report needs; accuracies are fractions, differences and drops
are points where the key says so. Seeds of an entry are averaged. Intervals, tests and ranks come
from one set of replicates.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from regatta.analysis import wording
from regatta.analysis.bootstrap import Bootstrap, bootstrap_accuracy
from regatta.analysis.budget import budget_ledger, entry_cost
from regatta.analysis.cells import (
    axis_names,
    class_accuracy,
    class_counts,
    class_table,
    result_rows,
)
from regatta.analysis.classification import classification_section
from regatta.analysis.contrasts import contrast_section
from regatta.analysis.judged import JudgedStudy, read_judged_study
from regatta.analysis.motion import motion_section
from regatta.analysis.paired import (
    Pair,
    PairedData,
    PairSettings,
    cochran_q,
    compare_pairs,
    mcnemar,
)
from regatta.analysis.protocol_words import contrast_methods, protocol_words
from regatta.analysis.published import FAULTS, across_models, published_analysis
from regatta.analysis.ranking import rank_entries
from regatta.analysis.robustness import (
    class_critical_rates,
    class_sensitivity,
    coverage_drops,
    frame_curve,
    grid_axes,
    representative_classes,
)
from regatta.analysis.sensor_tables import data_caveats, is_leaky, is_of_signals, sensor_section
from regatta.analysis.unknown import unknown_section
from regatta.analysis.write import write_results
from regatta.core.files import plain, read_json
from regatta.records.predictions import find_condition
from regatta.records.run_folder import RunFolder, StudyFolder

FORMAT = 3


def compare_study(folder: StudyFolder) -> dict[str, Any]:
    """Compare all judged runs of a study and write results/; returns what comparison.json holds.

    Runs that are not judged yet are listed under `missing`, so an unfinished study can be looked
    at. Results written by an earlier comparison that no longer hold are removed.

    Raises:
        RecordError: nothing is judged, a file is damaged, or runs may not meet in one table.
        ConfigError: `compare.condition` names no condition of the protocol.
    """
    judged = read_judged_study(folder)
    headline = headline_condition(judged)
    bootstrap = _bootstrap(judged)
    per_class = {entry: class_accuracy(judged, entry) for entry in judged.entries}
    rows = [row for e in range(len(judged.entries)) for row in result_rows(judged, bootstrap, e)]
    pairs = _pairs(judged, bootstrap, headline)
    ranking = {
        "headline": rank_entries(bootstrap, _only(judged, headline), judged.entries),
        "average": rank_entries(bootstrap, np.ones(len(judged.conditions)), judged.entries),
    }
    robustness = _robustness(judged, bootstrap, per_class)
    contrasts = contrast_section(judged, bootstrap, rows)
    classification = classification_section(judged)
    budget = budget_ledger(judged)
    provenance = _provenance(judged, bootstrap, pairs["method"])
    comparison = {
        "format": FORMAT,
        "study": _study_section(judged),
        "verdict": _verdict(judged, bootstrap, ranking, pairs, headline),
        "headline_condition": judged.conditions[headline].id,
        "axes": axis_names(judged),
        "conditions": [
            {"id": c.id, "axes": c.axes, "is_reference": c.is_reference} for c in judged.conditions
        ],
        "entries": [
            _entry_section(judged, bootstrap, e, headline, rows) for e in range(len(judged.entries))
        ],
        "table": rows,
        "pairs": pairs,
        "ranking": ranking,
        "robustness": robustness,
        "contrasts": contrasts,
        "motion": motion_section(folder, judged.classes, robustness["entries"]),
        "per_class": _class_section(judged, per_class),
        "classification": classification,
        "unknown": unknown_section(judged, headline),
        "sensor": sensor_section(judged, bootstrap, headline, classification["runs"]),
        "published": _published(judged, bootstrap, per_class),
        "budget": budget,
        "provenance": provenance,
        "methods": wording.methods_paragraph(
            provenance,
            headline=judged.conditions[headline].id,
            conditions=len(judged.conditions),
            protocol=protocol_words(
                judged.study.protocol, judged.conditions, signals=is_of_signals(judged)
            ),
            contrasts=contrast_methods(contrasts),
        ),
        "missing": judged.missing,
        "notes": _notes(judged, bootstrap) + budget["warnings"],
        "data": judged.data,
    }
    return write_results(folder, plain(comparison))


def headline_condition(judged: JudgedStudy) -> int:
    """Position of the condition that the verdict is about."""
    return find_condition(judged.conditions, judged.study.compare.condition)


def _bootstrap(judged: JudgedStudy) -> Bootstrap:
    settings = judged.study.compare
    runs = [run for entry in judged.entries for run in judged.runs_of(entry)]
    return bootstrap_accuracy(
        np.stack([run.correct for run in runs]),
        judged.groups,
        entry_of_run=[judged.entries.index(run.entry) for run in runs],
        replicates=settings.replicates,
        confidence=settings.confidence,
        seed=settings.seed,
    )


def _only(judged: JudgedStudy, position: int) -> np.ndarray:
    weights = np.zeros(len(judged.conditions))
    weights[position] = 1
    return weights


def _study_section(judged: JudgedStudy) -> dict[str, Any]:
    study = judged.study
    return {
        "name": study.name,
        "title": study.title,
        "source": study.data.source,
        "protocol": study.protocol.name,
        "protocol_id": judged.protocol,
        "split": study.protocol.split,
        "design": study.data.design,
        "is_leaky": is_leaky(judged),
        "fingerprint": judged.runs[0].fingerprint,
    }


def _entry_section(
    judged: JudgedStudy,
    bootstrap: Bootstrap,
    position: int,
    headline: int,
    rows: list[dict[str, Any]],
) -> dict[str, Any]:
    name = judged.entries[position]
    runs = judged.runs_of(name)
    mine = [row for row in rows if row["model"] == name]
    accuracy = bootstrap.interval(
        lambda a: a[..., position, headline], entries=[position], collapse="share"
    )
    average = bootstrap.interval(
        lambda a: a[..., position, :].mean(axis=-1), entries=[position], collapse="share"
    )
    best = max(mine, key=lambda row: row["accuracy"])
    worst = min(mine, key=lambda row: row["accuracy"])
    return {
        "name": name,
        **{key: runs[0].info.get(key) for key in ("model", "size", "checkpoint")},
        "runs": [run_id for run in runs for run_id in run.run_ids],
        "seeds": [run.seed for run in runs],
        "accuracy": accuracy.as_dict(),
        "average_accuracy": average.as_dict(),
        "accuracy_by_seed": {run.seed: float(run.correct[headline].mean()) for run in runs},
        "top5": mine[headline]["top5"],
        "best": {key: best[key] for key in ("condition", "accuracy")},
        "worst": {key: worst[key] for key in ("condition", "accuracy")},
        "cost": entry_cost(runs),
        "weights": [weights for run in runs for weights in run.weights],
        "notes": _entry_notes(judged, name),
    }


def _entry_notes(judged: JudgedStudy, entry: str) -> list[str]:
    notes = []
    for run in judged.runs_of(entry):
        if run.constant is not None:
            notes.append(f"seed {run.seed} answers {run.constant!r} for every sample")
        share = float(run.correct.mean())
        if share in (0.0, 1.0):
            notes.append(f"seed {run.seed} is {'right' if share else 'wrong'} on every sample")
    fitted = (_fitted_positions(judged.folder.run(run.run_id)) for run in judged.runs_of(entry))
    return notes + list(dict.fromkeys(note for found in fitted for note in found))


def _fitted_positions(run: RunFolder) -> list[str]:
    """What was changed in a checkpoint's position embeddings to take the entry's clips."""
    keys = read_json(run.weights) if run.weights.is_file() else {}
    return [
        f"positions of the checkpoint fitted to the clips: {key} ({what})"
        for key, what in keys.get("interpolated", {}).items()
    ]


def _pairs(judged: JudgedStudy, bootstrap: Bootstrap, headline: int) -> dict[str, Any]:
    """Differences at the headline, on average, and per condition: three families of tests."""
    settings = judged.study.compare
    data = PairedData(
        judged.entries,
        [np.stack([run.correct for run in judged.runs_of(e)]) for e in judged.entries],
        judged.groups,
    )
    margin = settings.equivalence_margin_points / 100
    how = PairSettings(settings.correction, margin, settings.replicates, settings.seed)
    cells = len(judged.conditions)
    (at_headline,) = compare_pairs(data, bootstrap, [_only(judged, headline)], how)
    (on_average,) = compare_pairs(data, bootstrap, [np.ones(cells)], how)
    each = compare_pairs(data, bootstrap, [_only(judged, c) for c in range(cells)], how)
    return {
        "headline": [
            {**_pair_row(judged, bootstrap, pair), "mcnemar": _mcnemar(judged, pair, headline)}
            for pair in at_headline
        ],
        "average": [_pair_row(judged, bootstrap, pair) for pair in on_average],
        "by_condition": [
            {"condition": condition.id, "pairs": [pair.as_dict() for pair in found]}
            for condition, found in zip(judged.conditions, each, strict=True)
        ],
        "cochran_q": _cochran(judged, headline),
        "method": at_headline[0].method if at_headline else "no pairs",
        "correction": settings.correction,
        "margin_points": settings.equivalence_margin_points,
        "family_sizes": {
            "headline": len(at_headline),
            "average": len(on_average),
            "by_condition": len(at_headline) * cells,
        },
    }


def _pair_row(judged: JudgedStudy, bootstrap: Bootstrap, pair: Pair) -> dict[str, Any]:
    seeds = [len(judged.runs_of(name)) for name in (pair.first, pair.second)]
    sentence = wording.pair_sentence(
        pair,
        groups=bootstrap.groups,
        seeds=seeds,
        margin_points=judged.study.compare.equivalence_margin_points,
    )
    return {**pair.as_dict(), "sentence": sentence}


def _mcnemar(judged: JudgedStudy, pair: Pair, condition: int) -> list[dict[str, Any]]:
    """Per seed that both entries have: exact McNemar with the discordant counts."""
    second = {run.seed: run for run in judged.runs_of(pair.second)}
    return [
        {"seed": run.seed, **mcnemar(run.correct[condition], second[run.seed].correct[condition])}
        for run in judged.runs_of(pair.first)
        if run.seed in second
    ]


def _cochran(judged: JudgedStudy, condition: int) -> list[dict[str, Any]]:
    """Per seed that all of three or more entries have: Cochran's Q."""
    found = []
    for seed in judged.study.seeds:
        runs = [run for run in judged.runs if run.seed == seed]
        if len(runs) == len(judged.entries) > 2:
            table = np.stack([run.correct[condition] for run in runs], axis=1)
            found.append({"seed": seed, **cochran_q(table)})
    return found


def _verdict(
    judged: JudgedStudy,
    bootstrap: Bootstrap,
    ranking: dict[str, Any],
    pairs: dict[str, Any],
    headline: int,
) -> dict[str, Any]:
    order = [row["entry"] for row in ranking["headline"]]
    common = {"condition": judged.conditions[headline].id, "leader": order[0]}
    if len(order) == 1:
        accuracy = bootstrap.interval(lambda a: a[..., 0, headline], entries=[0], collapse="share")
        sentence = wording.single_sentence(
            order[0],
            accuracy,
            samples=bootstrap.samples,
            groups=bootstrap.groups,
            seeds=bootstrap.seeds[0],
        )
        kind = {"kind": "single", "sentence": sentence, "details": [], "average": []}
        return {**kind, **common, "runner_up": None}
    by_names = {frozenset((p["first"], p["second"])): p for p in pairs["headline"]}
    top = by_names[frozenset(order[:2])]
    return {
        "kind": "ahead" if top["verdict"] == "behind" else top["verdict"],
        "sentence": top["sentence"],
        **common,
        "runner_up": order[1],
        "details": [by_names[frozenset(names)]["sentence"] for names in combinations(order, 2)],
        "average": [pair["sentence"] for pair in pairs["average"]],
    }


def _robustness(
    judged: JudgedStudy, bootstrap: Bootstrap, per_class: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Per entry drops, frame curve and class sensitivity; empty for any other protocol."""
    if grid_axes(judged.conditions) is None:
        return {"entries": {}, "representative_classes": None}
    entries = {}
    for position, name in enumerate(judged.entries):
        drops = coverage_drops(bootstrap, judged.conditions, position)
        truth, mine = judged.runs_of(name)[0].truth, per_class[name]
        rates = class_critical_rates(
            mine, judged.conditions, class_counts(judged), truth["rate_hz"]
        )
        entries[name] = {
            "drops": drops,
            "curve": frame_curve(bootstrap, truth["distinct_frames"], position),
            "classes": class_sensitivity(mine, judged.conditions, judged.classes, drops),
            "critical_rate_hz": dict(zip(judged.classes, rates, strict=True)),
        }
    sensitivities = [entry["classes"] for entry in entries.values()]
    return {"entries": entries, "representative_classes": representative_classes(sensitivities)}


def _class_section(judged: JudgedStudy, per_class: dict[str, np.ndarray]) -> dict[str, Any]:
    """Accuracy per entry as [C][K], None where a class has no judged sample."""
    return {
        "classes": judged.classes,
        "n_samples": class_counts(judged),
        "accuracy": per_class,
    }


def _published(
    judged: JudgedStudy, bootstrap: Bootstrap, per_class: dict[str, np.ndarray]
) -> dict[str, Any] | None:
    """The published analysis per entry and across entries; None for any other protocol."""
    if grid_axes(judged.conditions) is None:
        return None
    entries = {
        name: published_analysis(class_table(judged, accuracy))
        for name, accuracy in per_class.items()
    }
    by_entry = {name: bootstrap.observed[e].tolist() for e, name in enumerate(judged.entries)}
    return {"entries": entries, "across_models": across_models(by_entry), "faults": list(FAULTS)}


def _provenance(judged: JudgedStudy, bootstrap: Bootstrap, permutation: str) -> dict[str, Any]:
    settings = judged.study.compare
    return {
        "n": bootstrap.samples,
        "groups": bootstrap.groups,
        "seeds_per_entry": dict(zip(judged.entries, bootstrap.seeds, strict=True)),
        "replicates": settings.replicates,
        "confidence": settings.confidence,
        "method": "clustered bootstrap of groups, percentile interval, seeds as an outer level",
        "permutation": permutation,
        "correction": settings.correction,
        "margin_points": settings.equivalence_margin_points,
        "seed": settings.seed,
        "runs": [run_id for run in judged.runs for run_id in run.run_ids],
    }


def _notes(judged: JudgedStudy, bootstrap: Bootstrap) -> list[str]:
    """What a reader must know before believing the numbers, each a sentence."""
    notes = data_caveats(judged)
    if bootstrap.groups == 1:
        notes.append("all samples belong to one group: no interval or test can be given")
    if len(np.unique(judged.labels)) == 1:
        only = judged.classes[int(judged.labels[0])]
        notes.append(f"all judged samples are of one class, {only!r}: accuracy says little")
    absent = [judged.classes[k] for k in np.flatnonzero(class_counts(judged) == 0)]
    if absent:
        notes.append("classes without a judged sample: " + ", ".join(map(repr, absent)))
    if min(bootstrap.seeds) == 1:
        notes.append("an entry has one seed only: training noise is not covered")
    if len(judged.classes) < 6:
        notes.append("top-5 accuracy is not given below six classes")
    if not judged.data:
        notes.append("data.json is missing: counts and dropped files are not known")
    return notes + judged.missing
