"""`regatta export`: trained models as folders that others can load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regatta.cli.arguments import RUNS, AsJson, Runs, Target, find_study

if TYPE_CHECKING:
    from regatta.records.run_folder import StudyFolder

To = Annotated[Path, typer.Option("--to", help="Folder that the exported folders are put into.")]
Seed = Annotated[
    int | None,
    typer.Option("--seed", help="This seed of every entry; else the best on validation."),
]
AllSeeds = Annotated[bool, typer.Option("--all-seeds", help="Every seed, one folder each.")]
Entries = Annotated[
    list[str] | None,
    typer.Option("--entry", metavar="NAME", help="Only this entry; may be repeated."),
]

Layout = Annotated[
    str,
    typer.Option(
        "--layout",
        help="models = a folder per model; fusion-tree = experts, fusions and heads in files of "
        "their own.",
    ),
]


def export(
    target: Target = None,
    to: To = Path("fine_tuned_models"),
    runs: Runs = RUNS,
    seed: Seed = None,
    all_seeds: AllSeeds = False,
    entry: Entries = None,
    layout: Layout = "models",
    as_json: AsJson = False,
) -> None:
    """Write each trained model with its card as a folder that `from_pretrained` loads."""
    import json
    from dataclasses import asdict

    from regatta.core.files import plain
    from regatta.core.registry import unknown_name
    from regatta.report.model_export import export_models

    folder = find_study(target, runs)
    if layout == "fusion-tree":
        _export_tree(folder, to, as_json=as_json)
        return
    if layout != "models":
        raise unknown_name("layout", layout, ["models", "fusion-tree"], "--layout")
    models = export_models(folder, to, seed=seed, all_seeds=all_seeds, entries=entry or ())
    if as_json:
        typer.echo(json.dumps(plain([asdict(model) for model in models]), indent=1))
        return
    for model in models:
        score = model.validation_accuracy
        scored = "not validated" if score is None else f"validation {100 * score:.1f} %"
        typer.echo(f"{model.path}  {model.entry} seed {model.seed} ({model.choice}; {scored})")
        if model.note:
            typer.echo(f"  {model.note}")


def _export_tree(folder: StudyFolder, to: Path, *, as_json: bool) -> None:
    import json

    from regatta.report.fusion_tree import export_fusion_tree

    files = export_fusion_tree(folder, to)
    if as_json:
        typer.echo(json.dumps([{"path": str(f.path), "run": f.run_id} for f in files], indent=1))
        return
    for file in files:
        typer.echo(f"{file.path}  {file.run_id}".rstrip())
