"""`regatta init`: a commented study file to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regatta.core.errors import ConfigError
from regatta.core.files import slug, write_text
from regatta.core.registry import unknown_name


def init(
    path: Annotated[Path, typer.Argument(help="The study file to write.")] = Path("study.yaml"),
    subject: Annotated[
        str, typer.Option("--for", metavar="SUBJECT", help="video, or sensor for signals.")
    ] = "video",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented study file: every key with its default and its meaning.

    regatta init activity.yaml --for sensor
    """
    from regatta.config.template import STARTS, study_template

    if subject not in STARTS:
        raise unknown_name("template", subject, STARTS, "--for")
    if path.exists() and not force:
        raise ConfigError("this file exists", where=path, hint="name another, or add --force")
    write_text(path, study_template(slug(path.stem.lower()), subject=subject))
    typer.echo(f"wrote {path}; look at it, then: regatta check {path}")
