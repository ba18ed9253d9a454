"""Writes results/: tables for people and programs, comparison.json last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from regatta.analysis import tables
from regatta.analysis.agreement import agreement_files
from regatta.analysis.blocks import friedman_files
from regatta.analysis.class_tables import class_files
from regatta.analysis.crossover import crossover_files
from regatta.analysis.ensemble import ensemble_files
from regatta.analysis.factorial import factor_files
from regatta.analysis.hard_samples import hard_sample_files
from regatta.analysis.pareto import pareto_files
from regatta.analysis.power import power_files
from regatta.analysis.sensor_tables import sensor_files
from regatta.analysis.stability import stability_files
from regatta.analysis.unknown import unknown_files
from regatta.core.errors import RecordError
from regatta.core.files import path_under, read_json, write_json, write_text
from regatta.records.run_folder import StudyFolder

LEAKY_SPLIT = "window-random (leaky)"
STATISTICS_KEYS = (
    "anova_coverage",
    "anova_stride",
    "aliasing_sensitivity",
    "variance_homogeneity",
    "effect_sizes",
    "settings",
    "notes",
)


def write_results(
    folder: StudyFolder, comparison: dict[str, Any], *, more: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Write every file of `comparison` (plain JSON types) and return it with `files` added.

    `more` are texts by file name of tables too large to stand in `comparison` as well.

    Each file is replaced whole. Files that an earlier comparison listed and this one does not
    write are removed, so that no table of a former entry stays behind as if it were current.
    """
    contents: dict[str, str | dict[str, Any]] = {
        **_result_tables(comparison),
        **_class_tables(comparison),
        **_published_files(comparison),
        **_protocol_tables(comparison),
        **class_files(comparison["classification"]),
        **sensor_files(comparison["sensor"]),
        **unknown_files(comparison["unknown"]),
        **power_files(comparison["power"]),
        **agreement_files(comparison["agreement"]),
        **ensemble_files(comparison["ensemble"]),
        **pareto_files(comparison["pareto"]),
        **factor_files(comparison["factors"]),
        **friedman_files(comparison["friedman"]),
        **stability_files(comparison["stability"]),
        **crossover_files(comparison["crossover"]),
        **hard_sample_files(comparison["hard_samples"]),
        **(more or {}),
    }
    if comparison["study"]["is_leaky"]:
        contents = {name: _marked_leaky(content, name) for name, content in contents.items()}
    before = _files_before(folder)
    for name, content in contents.items():
        path = folder.results / name
        if isinstance(content, str):
            write_text(path, content)
        else:
            write_json(path, content)
    comparison = {**comparison, "files": [*contents, "comparison.json"]}
    write_json(folder.results / "comparison.json", comparison)
    for name in set(before) - set(comparison["files"]):
        path_under(folder.results, name).unlink(missing_ok=True)
    return comparison


def _marked_leaky(content: str | dict[str, Any], name: str) -> str | dict[str, Any]:
    """The same with the word "leaky" in it: a number that travels without its study must say so."""
    if isinstance(content, dict):
        return {"split": LEAKY_SPLIT, **content}
    if name.endswith(".csv"):
        return tables.with_column(content, "split", LEAKY_SPLIT)
    return f"split: {LEAKY_SPLIT}\n\n{content}"


def _files_before(folder: StudyFolder) -> list[str]:
    path = folder.results / "comparison.json"
    if not path.is_file():
        return []
    try:
        found = read_json(path)
    except RecordError:
        # A damaged file is replaced below; what it listed cannot be known.
        return []
    names = found.get("files", []) if isinstance(found, dict) else []
    return [name for name in names if isinstance(name, str)]


def _result_tables(comparison: dict[str, Any]) -> dict[str, str]:
    rows, axes = comparison["table"], comparison["axes"]
    files = {
        f"results_{entry['name']}.csv": tables.results_csv(
            [row for row in rows if row["model"] == entry["name"]], axes
        )
        for entry in comparison["entries"]
    }
    return {**files, "results_multimodel.csv": tables.results_csv(rows, axes)}


def _class_tables(comparison: dict[str, Any]) -> dict[str, str]:
    section = comparison["per_class"]
    return {
        f"per_class_{entry}.csv": tables.per_class_csv(
            section["classes"],
            accuracy,
            section["n_samples"],
            comparison["conditions"],
            comparison["axes"],
        )
        for entry, accuracy in section["accuracy"].items()
    }


def _protocol_tables(comparison: dict[str, Any]) -> dict[str, str]:
    """Contrasts of the protocol and motion spectra, where the study has them."""
    files = {}
    if comparison["contrasts"] is not None:
        files["contrasts.csv"] = tables.contrasts_csv(comparison["contrasts"]["tests"])
    if comparison["motion"] is not None:
        entries = list(comparison["robustness"]["entries"])
        files["motion_spectra.csv"] = tables.motion_csv(comparison["motion"]["classes"], entries)
    return files


def _published_files(comparison: dict[str, Any]) -> dict[str, str | dict[str, Any]]:
    published = comparison["published"]
    files: dict[str, str | dict[str, Any]] = {
        "multimodel_analysis.json": {
            **(published["across_models"] if published else {}),
            "faults": published["faults"] if published else [],
            "verdict": comparison["verdict"],
            "ranking": comparison["ranking"],
            "pairs": {key: comparison["pairs"][key] for key in ("headline", "average")},
            "representative_classes": comparison["robustness"]["representative_classes"],
            "provenance": comparison["provenance"],
        }
    }
    for entry, analysis in (published["entries"] if published else {}).items():
        statistics = {key: analysis[key] for key in STATISTICS_KEYS}
        files[f"{entry}/statistical_results.json"] = {
            **statistics,
            "robustness": comparison["robustness"]["entries"][entry]["drops"],
            "faults": published["faults"],
        }
        files[f"{entry}/pairwise_coverage_comparisons.csv"] = tables.pairwise_csv(
            analysis["pairwise"]
        )
        files[f"{entry}/summary_statistics_by_coverage.csv"] = tables.summary_csv(
            analysis["summary"]
        )
        files[f"{entry}/per_class_drop.csv"] = tables.drops_csv(
            analysis["drops"], analysis["settings"]
        )
    return files
