"""`regatta compare`: the statistics over the predictions that are on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regatta.cli.arguments import RUNS, AsJson, Runs, Target, find_study

if TYPE_CHECKING:
    from regatta.analysis.imported import ImportedStudy
    from regatta.records.run_folder import StudyFolder

Imports = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="[NAME[@SEED]=]FILE",
        help="Predictions that were made elsewhere, as an entry; repeated for several. NAME is the "
        "file's own where it is left out; one NAME with several seeds is one entry.",
        rich_help_panel="Foreign predictions",
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        help="Study that --import makes or adds to where no target is named; default: imported.",
        rich_help_panel="Foreign predictions",
    ),
]
Mix = Annotated[
    bool,
    typer.Option(
        "--mix-protocols",
        help="Let predictions meet that were judged differently, or nobody knows how; every "
        "difference is named beside the verdict. Kept as compare.mix_protocols.",
        rich_help_panel="Foreign predictions",
    ),
]


def compare(
    target: Target = None,
    imports: Imports = None,
    name: Name = None,
    mix_protocols: Mix = False,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Compare the judged entries of a study: verdict, tables, CSV and JSON under results/.

    regatta compare race

    With --import also predictions that were made elsewhere, beside the study's own entries or, with
    no study, among themselves. A FILE is one of three kinds, told apart by what is in it:

    a CSV with a row per sample: sample_id, label, score_0 .. or score_<class>, and where they exist
    group, condition, coverage, stride

    a NumPy archive (.npz): scores [N, K] or [C, N, K], labels [N], sample_ids [N], and where they
    exist groups [N], classes [K], conditions [C], coverage [C], stride [C]

    a CSV with a row per class: class, accuracy, n_samples, and where they exist coverage, stride

    (or the predictions folder of another run). docs/import.md has examples.

    regatta compare --import theirs.csv --import ours=ours.npz

    regatta compare race --import theirs=theirs.csv --mix-protocols
    """
    import json

    from regatta.analysis.compare import compare_study
    from regatta.core.errors import ConfigError
    from regatta.core.files import plain

    added = None
    if imports:
        added = _import(target, imports, name, runs, mix_protocols=mix_protocols)
        folder = added.folder
    elif name is not None:
        raise ConfigError(
            "--name is for --import", hint=f"name the study itself: regatta compare {name}"
        )
    else:
        folder = find_study(target, runs)
    if mix_protocols:
        _allow_mixing(folder)
    if added and not as_json:
        typer.echo("\n".join(added.said))
    comparison = compare_study(folder)
    if as_json:
        typer.echo(json.dumps(plain(comparison), indent=1))
        return
    typer.echo(comparison["verdict"]["sentence"])
    for line in [*_caveats(comparison), *published_lines(comparison["published"])]:
        typer.echo(line)
    typer.echo(f"results: {folder.results}")
    for line in _keeping(folder, added.entry_lines if added else [], mix_protocols=mix_protocols):
        typer.echo(line)


def _import(
    target: Path | None, texts: Sequence[str], name: str | None, runs: Path, *, mix_protocols: bool
) -> ImportedStudy:
    from regatta.analysis.import_request import parse_request
    from regatta.analysis.imported import import_predictions
    from regatta.config.schema import IMPORTED
    from regatta.core.errors import ConfigError

    if target is not None and name is not None:
        raise ConfigError(
            f"both a study ({target}) and --name {name} say where the predictions go",
            hint="leave one of them out",
        )
    return import_predictions(
        runs,
        [parse_request(text) for text in texts],
        target=None if target is None else find_study(target, runs),
        name=name or IMPORTED,
        mix_protocols=mix_protocols,
    )


def _keeping(folder: StudyFolder, entries: Sequence[str], *, mix_protocols: bool) -> list[str]:
    """What to write into the user's own study file, which `regatta run` puts in place of ours."""
    lines = [f"  entries: {line}" for line in entries]
    if mix_protocols and folder.study().trained_entries:
        lines.append("  compare: {mix_protocols: true}")
    head = "to keep this when the study is run again, add to your study file:"
    return [head, *lines] if lines else []


def _allow_mixing(folder: StudyFolder) -> None:
    """Write compare.mix_protocols into the saved study, so that report and later compares agree."""
    from regatta.config.load import dump_study
    from regatta.core.files import write_text
    from regatta.records.lease import refuse_if_held

    study = folder.study()
    if not study.compare.mix_protocols:
        refuse_if_held(folder.lease)
        compare = study.compare.model_copy(update={"mix_protocols": True})
        write_text(folder.study_yaml, dump_study(study.model_copy(update={"compare": compare})))


def _caveats(comparison: dict[str, Any]) -> list[str]:
    """What limits the verdict: where predictions came from, and how they were judged."""
    from regatta.analysis.judged import is_origin_note

    return [f"note: {text}" for text in comparison["notes"] if is_origin_note(text)]


def published_lines(published: dict[str, Any] | None) -> list[str]:
    """The published statistics in a line per entry, with what is wrong with them; for a grid."""
    if not published:
        return []
    entries = published["entries"]
    settings = next(iter(entries.values()))["settings"]
    lines = [
        "",
        "published analysis over class accuracies, for comparison with published tables; the "
        "verdict does not come from it",
        f"(coverage at stride {settings['stride']:g}, stride at coverage "
        f"{settings['coverage']:g} %)",
    ]
    lines += [f"  {name}: {_published_words(found)}" for name, found in entries.items()]
    lines.append("  known faults:")
    return [*lines, *(f"  - {fault}" for fault in published["faults"]), ""]


def _published_words(found: dict[str, Any]) -> str:
    parts = []
    for axis in ("coverage", "stride"):
        test = found[f"anova_{axis}"]
        freedom = f"{test['df_between']}, {test['df_within']}"
        parts.append(
            f"{axis} F({freedom}) = {_number(test['f_statistic'])}, "
            f"p = {_number(test['p_value'])}, eta2 = {_number(test['eta_squared'])}"
            + (f" ({test['reason']})" if test["reason"] else "")
        )
    levene = found["variance_homogeneity"]
    parts.append(
        f"Levene {_number(levene['levene_statistic'])}, p = {_number(levene['p_value'])}"
        + (f" ({levene['reason']})" if levene["reason"] else "")
    )
    if found["pairwise"]:
        first = found["pairwise"][0]
        parts.append(f"Welch t {first['comparison']} = {_number(first['t_statistic'])}")
    return "; ".join(parts)


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.6g}"
