"""`regatta ls`: what can be named in a study file."""

from __future__ import annotations

from typing import Annotated

import typer

from regatta.cli.arguments import AsJson
from regatta.core.registry import ALL, Registry, unknown_name

SHOWN = ("models", "extractors", "sources", "protocols")
_NAMES = "models, extractors, sources or protocols"
FILLED = {"size", "split", "seed", "channels", "length", "dim"}
"""Arguments that other keys of the study or the data set fill: they are no options."""


def ls(
    kind: Annotated[str | None, typer.Argument(help=f"{_NAMES}; all if left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the models, extractors (of the model trajectory), sources and protocols that a study
    file may name: what a sample is to each (video, image, signal or scene; any = all), and its
    options."""
    if kind is not None and kind not in SHOWN:
        raise unknown_name("list", kind, SHOWN)
    kinds = [kind] if kind else list(SHOWN)
    if as_json:
        import json

        typer.echo(json.dumps({name: _rows(ALL[name]) for name in kinds}, indent=1))
        return
    for name in kinds:
        typer.echo(f"{name}:")
        for row in _rows(ALL[name]):
            typer.echo(f"  {row['name']:<20} {row['kind']:<7} {row['summary']}")
            options = [f"{option}={default}" for option, default in row["options"].items()]
            if options:
                typer.echo(f"  {'':<20} options: {', '.join(options)}")


def _rows(registry: Registry) -> list[dict]:
    return [
        {
            "name": name,
            "kind": listed.kind,
            "summary": listed.summary,
            "options": {k: v for k, v in (listed.options or {}).items() if k not in FILLED},
        }
        for name, listed in sorted(registry.listed.items())
    ]
