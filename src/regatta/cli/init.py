"""`regatta init`: a commented study file to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regatta.core.errors import ConfigError
from regatta.core.files import slug, write_text


def init(
    path: Annotated[Path, typer.Argument(help="The study file to write.")] = Path("study.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented study file: every key with its default and its meaning."""
    from regatta.config.template import study_template

    if path.exists() and not force:
        raise ConfigError("this file exists", where=path, hint="name another, or add --force")
    write_text(path, study_template(slug(path.stem.lower())))
    typer.echo(f"wrote {path}; look at it, then: regatta check {path}")
