"""`regatta data import` and `import-weights`: files that could run code, opened in a process of
their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from regatta.cli.arguments import AsJson
from regatta.core.confined import run_confined

Target = Annotated[Path, typer.Option("--to", help="Folder to write.", show_default=False)]


def import_(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Tensor files: train.pt, val.pt, test.pt; or the word cifar, with --root.",
            show_default=False,
        ),
    ],
    folder: Target,
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder with the files.", show_default=False)
    ] = None,
    rate_hz: Annotated[
        float | None,
        typer.Option("--rate", help="Samples per second, kept with the windows.", min=1e-6),
    ] = None,
    channels: Annotated[
        str | None, typer.Option("--channels", help="Their names, apart by commas.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Names of labels 0, 1 ..., apart by commas.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn tensor files (torch.save of samples [N, C, L] and labels [N]) into safetensors that
    source windows-file reads; or, with `cifar --root cifar-100-python`, the python release of
    CIFAR into the binary one. Files that hold anything else are refused."""
    if files == [Path("cifar")]:
        _import_cifar(root, folder, as_json=as_json)
        return
    facts = {"rate_hz": rate_hz, "channels": _names(channels), "classes": _names(classes)}
    arguments = [json.dumps(facts), folder, *files]
    code, output = run_confined("regatta.data.import_tensors", arguments, where=files[0])
    for line in output.splitlines():
        typer.echo(line if as_json else _imported_line(json.loads(line)))
    if code:
        raise typer.Exit(code)
    if not as_json:
        rate = "" if rate_hz else " --set options.rate_hz=50"
        typer.echo(f"look at them with: regatta data check windows-file --root {folder}{rate}")


def import_weights(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="A model's weights: one .pt, .pth, .pyth, .bin or .ckpt file, or all its shards.",
            show_default=False,
        ),
    ],
    folder: Target,
    as_json: AsJson = False,
) -> None:
    """Turn weights that were written with torch.save into model.safetensors in a folder that
    `checkpoint:` can name. Only tensors are read; a file that holds other Python objects is
    refused."""
    code, output = run_confined("regatta.models.import_weights", [folder, *files], where=files[0])
    if code:
        raise typer.Exit(code)
    typer.echo(output.strip() if as_json else _weights_text(json.loads(output)))


def _weights_text(done: dict[str, Any]) -> str:
    lines = [
        f"{done['path']}: {done['tensors']} tensors, {done['parameters']:,} numbers "
        f"({', '.join(done['dtypes'])})"
    ]
    if done["config"]:
        lines.append("  config.json of the same folder was copied")
    if done["left_out"]:
        shown = ", ".join(done["left_out"][:8])
        more = f" and {len(done['left_out']) - 8} more" if len(done["left_out"]) > 8 else ""
        lines.append(f"  left out, no weights: {shown}{more}")
    lines.append(f"name it in a study: checkpoint: {Path(done['path']).parent}")
    return "\n".join(lines)


def _imported_line(done: dict[str, Any]) -> str:
    split = f"{done['split']} split" if done["split"] else "no split"
    shape = " x ".join(map(str, done["shape"]))
    line = f"{done['path']}: {done['kind']} {shape}, {done['classes']} classes, {split}"
    if done["kind"] == "pictures":
        line += (
            "\n  note: no source reads pictures; entries that need them (har-vit) draw them from "
            "the signals, so import train.pt, val.pt and test.pt for a study"
        )
    return line


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _import_cifar(root: Path | None, folder: Path, *, as_json: bool) -> None:
    from regatta.core.errors import ConfigError

    if root is None:
        raise ConfigError(
            "the folder of the python release is not given",
            where="--root",
            hint="regatta data import cifar --root cifar-100-python --to FOLDER",
        )
    code, output = run_confined("regatta.data.import_cifar", [root, folder], where=root)
    if code:
        raise typer.Exit(code)
    if as_json:
        typer.echo(output.strip())
        return
    done = json.loads(output)
    for name, count in done["images"].items():
        typer.echo(f"{Path(done['folder']) / name}: {count} images")
    typer.echo(f"look at them with: regatta data check {done['source']} --root {folder}")
