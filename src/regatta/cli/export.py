"""`regatta export`: trained models as folders that others can load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regatta.cli.arguments import RUNS, AsJson, Runs, Target, find_study

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


def export(
    target: Target = None,
    to: To = Path("fine_tuned_models"),
    runs: Runs = RUNS,
    seed: Seed = None,
    all_seeds: AllSeeds = False,
    entry: Entries = None,
    as_json: AsJson = False,
) -> None:
    """Write each trained model with its card as a folder that `from_pretrained` loads."""
    import json
    from dataclasses import asdict

    from regatta.core.files import plain
    from regatta.report.model_export import export_models

    folder = find_study(target, runs)
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
