"""One comparison: read the judged runs of a study, judge the entries, write results/.

`comparison.json` holds everything a report needs; accuracies are fractions, differences and drops
are points where the key says so. Seeds of an entry are averaged. Intervals, tests and ranks come
from one set of replicates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from regatta.analysis import wording
from regatta.analysis.agreement import agreement_section
from regatta.analysis.blocks import friedman_section
from regatta.analysis.bootstrap import Bootstrap, bootstrap_accuracy
from regatta.analysis.budget import budget_ledger
from regatta.analysis.cells import axis_names, class_accuracy, class_counts, result_rows
from regatta.analysis.classification import classification_section
from regatta.analysis.companion_words import companion_methods
from regatta.analysis.contrasts import contrast_section
from regatta.analysis.crossover import crossover_section
from regatta.analysis.ensemble import ensemble_section
from regatta.analysis.entries import entry_section
from regatta.analysis.factorial import factor_section
from regatta.analysis.fusion import fusion_section
from regatta.analysis.fusion_judged import without_experts
from regatta.analysis.fusion_matrix import CONFOUNDED
from regatta.analysis.grid_sections import published_section, robustness_section
from regatta.analysis.hard_samples import hard_samples_section
from regatta.analysis.judged import JudgedStudy, imports_of, read_judged_study
from regatta.analysis.many_entries import first_entries, limit_note
from regatta.analysis.motion import motion_section
from regatta.analysis.pairs import only, pairs_section
from regatta.analysis.pareto import pareto_section
from regatta.analysis.power import power_section
from regatta.analysis.protocol_words import contrast_methods, protocol_words
from regatta.analysis.ranking import rank_entries
from regatta.analysis.scene_section import scene_section
from regatta.analysis.sensor_tables import data_caveats, is_leaky, is_of_signals, sensor_section
from regatta.analysis.stability import stability_section
from regatta.analysis.unknown import unknown_section
from regatta.analysis.verdict import verdict_section
from regatta.analysis.wording import plural
from regatta.analysis.write import write_results
from regatta.core.files import plain
from regatta.core.passed_on import hide_below, hide_folders
from regatta.records.conditions import find_condition
from regatta.records.predictions import prediction_hashes
from regatta.records.run_folder import StudyFolder

FORMAT = 6


def compare_study(folder: StudyFolder) -> dict[str, Any]:
    """Compare all judged runs of a study and write results/; returns what comparison.json holds.

    Runs that are not judged yet are listed under `missing`, so an unfinished study can be looked
    at. Results written by an earlier comparison that no longer hold are removed.

    Raises:
        RecordError: nothing is judged, a file is damaged, or runs may not meet in one table.
        ConfigError: `compare.condition` names no condition of the protocol.
    """
    # Before they are read: what changes meanwhile is then of other predictions.
    read = prediction_hashes(folder)
    everyone = read_judged_study(folder)
    hide_below(folder.path.parent, everyone.study.data.root)
    # Experts are parts of systems: all pairs of them would drown those that are compared.
    judged = without_experts(everyone)
    headline = headline_condition(judged)
    bootstrap = _bootstrap(judged)
    per_class = {entry: class_accuracy(judged, entry) for entry in judged.entries}
    rows = [row for e in range(len(judged.entries)) for row in result_rows(judged, bootstrap, e)]
    pairs = pairs_section(judged, bootstrap, headline)
    ranking = {
        "headline": rank_entries(bootstrap, only(judged, headline), judged.entries),
        "average": rank_entries(bootstrap, np.ones(len(judged.conditions)), judged.entries),
    }
    robustness = robustness_section(judged, bootstrap, per_class)
    contrasts = contrast_section(judged, bootstrap, rows)
    companions = _companions(judged, bootstrap, headline, pairs)
    classification = companions["classification"]
    budget = budget_ledger(judged)
    provenance = _provenance(judged, bootstrap, pairs["method"])
    provenance |= {"runs": [i for run in everyone.runs for i in run.run_ids], "predictions": read}
    fusion, fusion_tables = fusion_section(everyone, headline)
    scenes, scene_tables = scene_section(judged, headline, rows, pairs["headline"], classification)
    methods = [contrast_methods(contrasts)]
    methods += [companions[name]["methods"] for name in ("factors", "friedman")]
    methods.append(companion_methods(companions))
    comparison = {
        "format": FORMAT,
        "study": _study_section(judged),
        "verdict": verdict_section(
            judged, bootstrap, ranking, pairs, companions["power"], headline
        ),
        "headline_condition": judged.conditions[headline].id,
        "axes": axis_names(judged),
        "conditions": [
            {"id": c.id, "axes": c.axes, "is_reference": c.is_reference} for c in judged.conditions
        ],
        "entries": [
            entry_section(judged, bootstrap, e, headline, rows) for e in range(len(judged.entries))
        ],
        "table": rows,
        "pairs": pairs,
        "ranking": ranking,
        **companions,
        "robustness": robustness,
        "contrasts": contrasts,
        "motion": motion_section(folder, judged.classes, robustness["entries"]),
        "per_class": _class_section(judged, per_class),
        "unknown": unknown_section(judged, headline),
        "sensor": sensor_section(judged, bootstrap, headline, classification["runs"]),
        "fusion": fusion,
        "scenes": scenes,
        "published": published_section(judged, bootstrap, per_class),
        "budget": budget,
        "provenance": provenance,
        "methods": wording.methods_paragraph(
            provenance,
            headline=judged.conditions[headline].id,
            conditions=len(judged.conditions),
            protocol=protocol_words(
                judged.study.protocol, judged.conditions, signals=is_of_signals(judged)
            ),
            contrasts=" ".join(filter(None, methods)),
        ),
        "missing": hide_folders(judged.missing),
        "notes": [*_notes(judged, bootstrap), *budget["warnings"], *_fusion_notes(fusion)],
        "data": _passed_on(judged.data),
    }
    return write_results(folder, plain(comparison), more={**fusion_tables, **scene_tables})


def _passed_on(data: dict[str, Any]) -> dict[str, Any]:
    """What was said of the data, without the folders that they lie in; names of classes stay."""
    hidden = ("settings", "notes", "dropped")
    return {key: hide_folders(value) if key in hidden else value for key, value in data.items()}


def _companions(
    judged: JudgedStudy, bootstrap: Bootstrap, headline: int, pairs: dict[str, Any]
) -> dict[str, Any]:
    """The sections that stand beside the verdict; None where a study has no such part."""
    agreement = agreement_section(judged, bootstrap, headline)
    return {
        "power": power_section(judged, bootstrap, headline),
        "agreement": agreement,
        "ensemble": ensemble_section(judged, bootstrap, headline, agreement),
        "stability": stability_section(judged, bootstrap, headline, pairs["by_condition"]),
        "crossover": crossover_section(*first_entries(judged, bootstrap), headline),
        "factors": factor_section(judged, bootstrap),
        "friedman": friedman_section(judged, headline),
        "classification": classification_section(judged),
        "hard_samples": hard_samples_section(judged, headline),
        "pareto": pareto_section(judged, bootstrap, headline),
    }


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
        "unit": judged.unit,
        "imports": imports_of(judged),
    }


def _class_section(judged: JudgedStudy, per_class: dict[str, np.ndarray]) -> dict[str, Any]:
    """Accuracy per entry as [C][K], None where a class has no judged sample."""
    return {
        "classes": judged.classes,
        "n_samples": class_counts(judged),
        "accuracy": per_class,
    }


def _provenance(judged: JudgedStudy, bootstrap: Bootstrap, permutation: str) -> dict[str, Any]:
    settings = judged.study.compare
    return {
        "n": bootstrap.samples,
        "groups": bootstrap.groups,
        "group_word": judged.group_word,
        "seeds_per_entry": dict(zip(judged.entries, bootstrap.seeds, strict=True)),
        "replicates": settings.replicates,
        "confidence": settings.confidence,
        "method": f"clustered bootstrap of {plural(judged.group_word)}, percentile interval, "
        "seeds as an outer level",
        "permutation": permutation,
        "correction": settings.correction,
        "margin_points": settings.equivalence_margin_points,
        "mix_protocols": settings.mix_protocols,
        "seed": settings.seed,
    }


def _fusion_notes(fusion: dict[str, Any] | None) -> list[str]:
    """What limits every ranking of fused systems, the general one too."""
    if fusion is None:
        return []
    return [effects["reason"] for effects in fusion["effects"] if effects["reason"] == CONFOUNDED]


def _notes(judged: JudgedStudy, bootstrap: Bootstrap) -> list[str]:
    """What a reader must know before believing the numbers, each a sentence."""
    notes = judged.origin_notes + data_caveats(judged) + limit_note(judged)
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
    if len(judged.classes) < 6 and judged.unit == "sample":
        notes.append("top-5 accuracy is not given below six classes")
    if not judged.data and judged.study.trained_entries:
        notes.append("data.json is missing: counts and dropped files are not known")
    return notes + judged.missing
