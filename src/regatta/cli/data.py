"""`regatta data`: look at a data set before any training, or generate one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from regatta.cli.arguments import RUNS, AsJson, Runs

SHOWN = 50
"""Most files that are listed on the screen, of each kind."""

app = typer.Typer(help="Check or generate a data set.", no_args_is_help=True)

Source = Annotated[str, typer.Argument(help="Name of the source; see `regatta ls sources`.")]
Root = Annotated[
    Path | None, typer.Option("--root", help="Folder with the files.", show_default=False)
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A key of data:, for example --set options.frames=32."
    ),
]
Split = Annotated[int, typer.Option("--split", help="Which published split.")]


@app.command()
def check(
    source: Source,
    root: Root = None,
    split: Split = 1,
    overrides: Options = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Read the lists, open and decode every file once, and say what is there and what is wrong.

    Damaged files are listed by name; nothing is changed or deleted. Exit code 2 when a study would
    refuse the data.
    """
    facts = _facts(_scan(source, root, split, overrides, runs, as_json))
    if as_json:
        import json

        typer.echo(json.dumps(facts, indent=1))
    else:
        _print(facts)
    if facts["damaged"] and facts["policy"] == "fail":
        raise typer.Exit(2)


@app.command()
def make(
    source: Source,
    root: Annotated[Path, typer.Option("--to", help="Folder to write.", show_default=False)],
    overrides: Options = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Generate a data set (rotors, trajectories) as real video files; again = finish what is
    missing."""
    from regatta.core.errors import ConfigError
    from regatta.core.registry import SOURCES

    SOURCES.check(source)
    if not SOURCES.listed[source].generates:
        makers = ", ".join(name for name, listed in SOURCES.listed.items() if listed.generates)
        raise ConfigError(
            f"the source '{source}' reads files and makes none",
            hint=f"sources that make files: {makers}; to look at files: regatta data check",
        )
    facts = _facts(_scan(source, root, 1, overrides, runs, as_json))
    if as_json:
        import json

        typer.echo(json.dumps(facts, indent=1))
    else:
        _print(facts)


def _scan(
    source: str, root: Path | None, split: int, overrides: list[str] | None, runs: Path, quiet: bool
) -> tuple[Any, str]:
    """The manifest with damaged files listed instead of raised, and the policy that the user asked
    for."""
    from regatta.config.load import apply_override, study_from_mapping
    from regatta.data.scan import build_manifest

    content: dict[str, Any] = {"source": source, "split": split}
    if root is not None:
        content["root"] = str(root)
    for override in overrides or []:
        apply_override(content, override)
    study = study_from_mapping(
        {"name": "data-check", "data": content, "entries": ["cnn3d"]}, where="regatta data"
    )
    lenient = study.data.model_copy(update={"damaged": "drop"})
    with _progress(quiet) as progress:
        manifest = build_manifest(
            lenient, cache_folder=runs / ".scan-cache", progress=progress, stop=None
        )
    return manifest, study.data.damaged


def _progress(quiet: bool) -> Any:
    """A context whose value is a progress callback: a bar on a terminal, nothing when piped or for
    JSON."""
    import contextlib
    import sys

    if quiet or not sys.stderr.isatty():
        return contextlib.nullcontext(None)
    from rich.console import Console
    from rich.progress import Progress

    @contextlib.contextmanager
    def bar() -> Any:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("scan")
            yield lambda done, total, text: progress.update(
                task, completed=done, total=total, description=text
            )

    return bar()


def _facts(scanned: tuple[Any, str]) -> dict[str, Any]:
    manifest, policy = scanned
    splits = ("train", "validation", "test")
    samples = manifest.samples
    return {
        "samples": len(samples),
        "classes": len(manifest.classes),
        "splits": {
            name: {
                "samples": len(manifest.split(name)),
                "groups": len({s.group for s in manifest.split(name)}),
                "classes": len({s.label for s in manifest.split(name)}),
            }
            for name in splits
        },
        "frames": {
            "fewest": min(s.frames for s in samples),
            "most": max(s.frames for s in samples),
        },
        "fps": sorted({round(s.fps, 3) for s in samples}),
        "sizes": sorted({f"{s.width}x{s.height}" for s in samples}),
        "damaged": _listed(d for d in manifest.dropped if d.is_damage),
        "left_out": _listed(d for d in manifest.dropped if not d.is_damage),
        "notes": list(manifest.notes),
        "policy": policy,
        "hash": manifest.hash(),
    }


def _listed(dropped: Iterable[Any]) -> list[dict[str, str]]:
    return [{"path": item.path, "reason": item.reason} for item in dropped]


def _print(facts: dict[str, Any]) -> None:
    typer.echo(f"{facts['samples']} samples, {facts['classes']} classes")
    for name, row in facts["splits"].items():
        typer.echo(
            f"  {name:<11} {row['samples']:>6} samples, {row['groups']:>5} groups,"
            f" {row['classes']:>4} classes"
        )
    fps = ", ".join(f"{value:g}" for value in facts["fps"][:6])
    sizes = ", ".join(facts["sizes"][:6])
    typer.echo(
        f"  frames {facts['frames']['fewest']}-{facts['frames']['most']}; fps {fps}; {sizes}"
    )
    for note in facts["notes"]:
        typer.echo(f"  note: {note}")
    for word, items in (("left out", facts["left_out"]), ("damaged", facts["damaged"])):
        for item in items[:SHOWN]:
            typer.echo(f"  {word}: {item['path']}: {item['reason']}")
        if len(items) > SHOWN:
            typer.echo(f"  {word}: {len(items) - SHOWN} more; --json lists all")
    if facts["damaged"]:
        typer.echo(
            "  next: repair or remove these files, or set data.damaged: drop (listed in the report)"
        )
