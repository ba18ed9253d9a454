"""What `regatta data` says of images, and `regatta data import cifar`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer


def import_cifar(root: Path | None, folder: Path, *, as_json: bool) -> None:
    """Convert a python release of CIFAR in a child process; exit with its code."""
    import json
    import subprocess
    import sys

    from regatta.core.errors import ConfigError, DataError

    if root is None:
        raise ConfigError(
            "the folder of the python release is not given",
            where="--root",
            hint="regatta data import cifar --root cifar-100-python --to FOLDER",
        )
    command = [sys.executable, "-m", "regatta.data.import_cifar", str(root), str(folder)]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if child.returncode < 0:
        # Killed for time or memory: it had no chance to say so itself.
        raise DataError(
            f"reading the files was stopped (signal {-child.returncode}): they need more time or "
            "memory than a release does",
            where=root,
            hint="fetch the python release again from its home page",
        )
    if child.returncode:
        raise typer.Exit(child.returncode)
    if as_json:
        typer.echo(child.stdout.strip())
        return
    done = json.loads(child.stdout)
    for name, count in done["images"].items():
        typer.echo(f"{Path(done['folder']) / name}: {count} images")
    typer.echo(f"look at them with: regatta data check {done['source']} --root {folder}")


def image_facts(scanned: Any) -> dict[str, Any]:
    """Size, mean and sd of the images that a scan found."""
    mean, deviation = scanned.statistics
    return {
        "image": {"size": scanned.images.shape[2], "mean": list(mean), "sd": list(deviation)},
        "class_names": scanned.manifest.classes,
    }


def image_lines(facts: dict[str, Any]) -> list[str]:
    """The same for people."""
    image = facts["image"]
    mean, deviation = (", ".join(f"{x:.4f}" for x in image[key]) for key in ("mean", "sd"))
    names = facts["class_names"]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return [
        f"images of {image['size']} x {image['size']} pixels; mean {mean}; sd {deviation}",
        f"classes {', '.join(names[:12])}{more}",
    ]
