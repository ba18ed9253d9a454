"""One self-contained page from a comparison: verdict first, then everything that it rests on."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np

from regatta.core.files import plain, write_bytes
from regatta.core.passed_on import without_folders
from regatta.records.run_folder import StudyFolder
from regatta.report import (
    agreement_tables,
    class_tables,
    contents,
    contrast_tables,
    costs,
    entry_table,
    factor_tables,
    fusion_part,
    fusion_tables,
    imported_part,
    ledger,
    pareto_part,
    perturbations,
    profile_part,
    scene_part,
    scene_tables,
    stability_tables,
)
from regatta.report.browser import browser_view
from regatta.report.drill import drill_view
from regatta.report.entry_cards import card_link, entry_cards
from regatta.report.entry_figures import entry_folder
from regatta.report.facts import (
    caveats,
    facts,
    judged_on,
    notes,
    recipe_differences,
    sentence,
    with_leak,
)
from regatta.report.figures import draw_figures
from regatta.report.film import film_view
from regatta.report.formats import FORMATS, drawing_formats, wanted_formats
from regatta.report.material import Material, read_material
from regatta.report.numbers import p_text
from regatta.report.pdf import remove_stale_pdf
from regatta.report.protocol_figures import protocol_page
from regatta.report.style import Drawn, RenderedFigure, clean_text, entry_color
from regatta.report.tables import Table, table_files
from regatta.report.truths import condition_truths

TEMPLATES = Path(__file__).parent / "templates"
NOT_IN_PAGES = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
TABLE_KINDS = ("csv", "md", "tex")
CARD_KINDS = ("md",)
REM_PER_INCH = 96 * 1.08 / 16
"""A little larger than in print: 8 point text then has the size of a caption."""


def write_report(folder: StudyFolder, *, formats: Sequence[str] = ()) -> Path:
    """Write report/ of a study: figures, tables and report.html; returns the page's path.

    Figures are written in `formats`; without them in all three, or those that the environment
    variable REGATTA_FIGURE_FORMATS names.

    Everything is made in memory first and the page is written last, so a failure leaves the former
    report whole. Figures and tables that this report does not have are removed.

    Raises:
        ConfigError: REGATTA_FIGURE_FORMATS names no format, or none that the page can show.
        RecordError: nothing is judged yet, or a record is damaged.
        DiskError: the folder cannot be written.
    """
    formats = formats or wanted_formats()
    material = read_material(folder)
    with drawing_formats(formats):
        figures = draw_figures(material)
    tables = report_tables(material)
    page = render_page(material, figures, tables)
    files = {
        **{
            f"tables/{t.name}.{kind}": text
            for t in tables.values()
            for kind, text in table_files(t).items()
        },
        **{
            f"figures/{name}.{kind}": picture
            for name, figure in figures.items()
            if isinstance(figure, RenderedFigure)
            for kind, picture in figure.formats.items()
        },
        **{name: text.encode("utf-8") for name, text in entry_cards(material).items()},
    }
    for name, content in files.items():
        write_bytes(folder.report / name, content)
    remove_stale_pdf(folder.report, page.encode("utf-8"))
    write_bytes(folder.report / "report.html", page.encode("utf-8"))
    _remove_stale(folder.report, set(files))
    return folder.report / "report.html"


def _remove_stale(report: Path, kept: set[str]) -> None:
    """Delete figures and tables of an earlier report, and only files of the kinds that we write."""
    written = (("figures", FORMATS), ("tables", TABLE_KINDS), ("cards", CARD_KINDS))
    for part, kinds in written:
        for path in sorted((report / part).rglob("*"), reverse=True):
            if path.is_file() and path.suffix[1:] in kinds:
                if path.relative_to(report).as_posix() not in kept:
                    path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def report_tables(material: Material) -> dict[str, Table]:
    """Every table of the report by name; those that the study has no numbers for are absent."""
    found: Iterable[Table | None] = (
        entry_table.entries_table(material),
        contents.results_table(material),
        costs.costs_table(material),
        pareto_part.pareto_table(material),
        *fusion_tables.fusion_tables(material),
        *scene_tables.scene_tables(material),
        contents.pairs_table(material),
        agreement_tables.power_table(material),
        agreement_tables.agreement_table(material),
        agreement_tables.ensemble_table(material),
        factor_tables.factors_table(material),
        factor_tables.factor_analyses_table(material),
        factor_tables.friedman_table(material),
        stability_tables.stability_table(material),
        stability_tables.pair_orders_table(material),
        stability_tables.crossover_table(material),
        contrast_tables.contrasts_table(material),
        contrast_tables.protocol_table(material),
        contrast_tables.concentration_classes_table(material),
        contents.conditions_table(material),
        contents.classes_table(material),
        class_tables.class_scores_table(material),
        class_tables.calibration_table(material),
        contents.robustness_table(material),
        perturbations.perturbations_table(material),
        contrast_tables.motion_table(material),
        None if material.is_foreign else ledger.budget_table(material),
        ledger.data_table(material),
        ledger.dropped_table(material),
        None if material.is_foreign else ledger.runs_table(material),
        ledger.published_table(material),
        imported_part.welch_table(material),
        imported_part.imports_table(material),
        profile_part.profile_table(material),
    )
    return {table.name: with_leak(material, table) for table in found if table is not None}


def render_page(material: Material, figures: dict[str, Drawn], tables: dict[str, Table]) -> str:
    """The page as text; jinja escapes every value, our own style and script excepted."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        entry_color=entry_color, data_uri=data_uri, file_link=file_link, shown_size=shown_size
    )
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    view = page_view(material, figures, tables)
    page = environment.get_template("report.html.j2").render(
        view,
        script=script,
        style=style,
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
    )
    # A name may hold characters that HTML or UTF-8 refuses, or that turn the reading order around.
    return NOT_IN_PAGES.sub("\ufffd", page)


def data_uri(figure: RenderedFigure) -> str:
    kind = figure.page_format
    media = "image/svg+xml" if kind == "svg" else "image/png"
    return f"data:{media};base64,{b64encode(figure.formats[kind]).decode('ascii')}"


def file_link(figure: RenderedFigure, kind: str) -> str:
    """Address of a figure's file relative to the page."""
    return quote(f"figures/{figure.name}.{kind}")


def shown_size(figure: RenderedFigure) -> tuple[float, int, int]:
    """Width in rem at which a figure is shown, and its size in pixels, which fixes its shape."""
    width, height = figure.pixels
    return round(width / 150 * REM_PER_INCH, 2), width, height


def page_view(
    material: Material, figures: dict[str, Drawn], tables: dict[str, Table]
) -> dict[str, Any]:
    """Everything that the template shows, as plain values."""
    comparison = material.comparison
    verdict, basis = verdict_parts(material)
    # By rank: the pairs of the leader come first.
    details = comparison["verdict"]["details"][: len(material.shown_pairs)]
    return {
        "study": comparison["study"],
        "title": clean_text(comparison["study"]["title"] or comparison["study"]["name"]),
        "verdict": verdict,
        "basis": basis,
        "sentences": lede_sentences(material),
        "facts": facts(material),
        "caveats": caveats(material),
        "words": material.words,
        "judged_on": judged_on(material) if material.folds else f"on the {judged_on(material)}",
        "is_signal": material.is_signal,
        "is_image": material.is_image,
        "foreign": imported_part.foreign_view(material),
        "histories": [f for name, f in figures.items() if name.startswith("training_history")],
        "not_profiled": profile_part.not_profiled(material),
        "warnings": [without_folders(text) for text in comparison["budget"]["warnings"]],
        "compute": comparison["budget"]["compute"],
        "cost_notes": costs.cost_notes(material),
        "recipe": recipe_differences(comparison["budget"]["recipe_differences"]),
        "entries": [entry_view(material, entry, figures) for entry in comparison["entries"]],
        "drawn": [
            entry
            for entry in (entry_view(material, e, figures) for e in comparison["entries"])
            if entry["name"] in material.drawn_entries
        ],
        "figures": figures,
        "tables": tables,
        "details": [sentence(text, material.entries) for text in details],
        "cochran": cochran_sentences(comparison["pairs"]["cochran_q"]),
        "power": agreement_tables.power_view(material),
        "agreement": agreement_tables.agreement_view(material),
        "headline": material.headline_name,
        "browser": browser_view(material),
        "film": film_view(material),
        "classes": class_view(material),
        "drill": drill_view(material),
        "pareto": pareto_part.pareto_view(material),
        "protocol": protocol_view(material, figures, tables),
        "contrasts": contrast_view(material),
        "factors": factor_tables.factor_view(material),
        "fusion": fusion_part.fusion_view(material),
        "scenes": scene_part.scene_view(material),
        "stability": stability_tables.stability_view(material),
        "class_maps": [f for name, f in figures.items() if name.startswith("class_conditions")],
        "grid": condition_truths(material),
        "published": published_view(material),
        "missing": [without_folders(text) for text in comparison["missing"]],
        "notes": notes(material),
        "methods": comparison["methods"],
        "provenance": provenance(material),
    }


def verdict_parts(material: Material) -> tuple[str, str]:
    """The verdict and, apart from it, what it rests on ("Paired over 412 groups, 3 seeds.")."""
    if (own := fusion_part.verdict(material)) is not None:
        return own
    text = material.comparison["verdict"]["sentence"]
    head, separator, rest = text.partition(", paired over ")
    if separator:
        return sentence(head, material.entries), sentence(f"paired over {rest}", [])
    head, _, rest = text.partition("; ")
    return sentence(head, material.entries), sentence(rest, []) if rest else ""


def lede_sentences(material: Material) -> list[str]:
    """Under the verdict: where it holds, what averages say, what an open one could have seen."""
    comparison = material.comparison
    count = len(comparison["conditions"])
    found = [*fusion_part.lede(material), *scene_part.lede(material)]
    if count > 1:
        name = material.condition_name(comparison["headline_condition"])
        found.append(f"This is at {name}, the headline of {count} conditions.")
        average = comparison["verdict"]["average"]
        if average:
            first = average[_leader_pair(comparison)].partition(", paired over ")[0]
            found.append(sentence(f"averaged over all conditions, {first}", []))
    outlook = comparison["verdict"]["outlook"]
    return [*found, sentence(outlook, material.entries)] if outlook else found


def _leader_pair(comparison: dict[str, Any]) -> int:
    """Position of the pair of leader and runner-up among the pairs."""
    wanted = {comparison["verdict"]["leader"], comparison["verdict"]["runner_up"]}
    pairs = comparison["pairs"]["average"]
    return next(i for i, pair in enumerate(pairs) if {pair["first"], pair["second"]} == wanted)


def entry_view(
    material: Material, entry: dict[str, Any], figures: dict[str, Drawn]
) -> dict[str, Any]:
    prefix = f"{entry_folder(entry['name'])}/"
    fresh = "random weights"
    published = fresh if material.is_image or material.is_scene else "published weights"
    checkpoint = {"none": fresh, "default": published}.get(
        str(entry["checkpoint"]), entry["checkpoint"] or ""
    )
    if entry["model"] == "fusion":
        checkpoint = fusion_part.origin(material, entry["name"])
    return {
        "name": entry["name"],
        "position": material.positions[entry["name"]],
        "model": " · ".join(
            str(part) for part in (entry["model"], entry["size"], checkpoint) if part
        ),
        "notes": entry["notes"],
        "card": card_link(entry["name"]),
        "seeds": [
            (seed, f"{100 * value:.1f}") for seed, value in entry["accuracy_by_seed"].items()
        ],
        "figures": {
            name.removeprefix(prefix): f for name, f in figures.items() if name.startswith(prefix)
        },
    }


def cochran_sentences(results: list[dict[str, Any]]) -> list[str]:
    """Cochran's Q over all entries, one sentence per seed."""
    return [
        f"Cochran's Q over all entries, seed {row['seed']}: "
        + (
            f"Q = {row['statistic']:.1f}, {row['df']} degrees of freedom, "
            f"p {_equals(row['p_value'])}."
            if row["statistic"] is not None
            else f"not defined, {row['reason']}."
        )
        for row in results
    ]


def _equals(p_value: float) -> str:
    text = p_text(p_value)
    return text if text.startswith("<") else f"= {text}"


def class_view(material: Material) -> dict[str, Any]:
    """The chooser of the class table, and accuracies [condition][entry][class], one decimal."""
    ids = [c["id"] for c in material.comparison["conditions"]]
    tables = [material.class_accuracy(entry) for entry in material.entries]
    data = {
        cell: [
            [None if np.isnan(v) else round(float(v), 1) for v in table[row]] for table in tables
        ]
        for row, cell in enumerate(ids)
    }
    return {
        "choices": [(cell, material.condition_name(cell)) for cell in ids],
        "chosen": material.comparison["headline_condition"],
        "data": data,
    }


def contrast_view(material: Material) -> dict[str, Any] | None:
    """What the contrasts of the protocol say in words, and how they are read."""
    section = material.comparison["contrasts"]
    if section is None:
        return None
    said = [text for entry in section["entries"].values() for text in entry["sentences"]]
    return {
        "sentences": [sentence(text, material.entries) for text in said],
        "rule": sentence(section["rule"], []),
    }


def protocol_view(
    material: Material, figures: dict[str, Drawn], tables: dict[str, Table]
) -> dict[str, Any] | None:
    """The section of a protocol with contrasts of its own; None for the others."""
    section, page = material.comparison["contrasts"], protocol_page(material)
    if section is None or page is None:
        return None
    names = ("frame_budgets", "concentration", "contrasts")
    return {
        "heading": page.heading,
        "intro": page.intro,
        "figure": figures[section["protocol"]],
        **(contrast_view(material) or {}),
        "tables": [tables[name] for name in names if name in tables],
        "classes": tables.get("concentration_by_class"),
    }


def published_view(material: Material) -> dict[str, Any] | None:
    published = material.comparison["published"]
    if not published:
        return None
    across = published["across_models"]["anova_models"]
    line = ""
    if across["f_statistic"] is not None:
        line = (
            f"Across entries, over their accuracies in all conditions: F({across['df_between']}, "
            f"{across['df_within']}) = {across['f_statistic']:.2f}, "
            f"p {_equals(across['p_value'])}, η² = {across['eta_squared']:.3f}."
        )
    found = [note for entry in published["entries"].values() for note in entry["notes"]]
    return {"across": line, "faults": published["faults"], "notes": list(dict.fromkeys(found))}


def provenance(material: Material) -> list[tuple[str, str]]:
    """(what, value) of the record behind all numbers."""
    comparison, record = material.comparison, material.comparison["provenance"]
    fingerprint = comparison["study"]["fingerprint"]
    rows: list[tuple[str, Any]] = [
        ("manifest", fingerprint.get("manifest")),
        ("protocol", comparison["study"]["protocol_id"]),
        ("judged samples", fingerprint.get("sample_ids")),
        (
            "intervals",
            f"{record['method']}, {record['replicates']:,} replicates, seed {record['seed']}",
        ),
        ("tests", record["permutation"]),
        ("correction", record["correction"]),
        ("equivalence margin", f"±{record['margin_points']:g} points"),
    ]
    return [(name, clean_text(str(plain(value)))) for name, value in rows if value is not None]
