"""`regatta data`: look at a data set before any training, generate one, or bring one in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from regatta.cli.arguments import RUNS, AsJson, Runs
from regatta.cli.data_import import import_, import_weights
from regatta.cli.data_scenes import SOURCE as SCENES
from regatta.cli.data_scenes import options_of_folder, short_options

_FITTING = {"signal": "cnn1d", "image": "resnet18", "scene": "trajectory"}
"""A model of each kind of data: a study needs one."""
SHOWN = 50
"""Most files that are listed on the screen, of each kind."""

app = typer.Typer(help="Check, generate or import a data set.", no_args_is_help=True)

Source = Annotated[
    str,
    typer.Argument(
        help="Name of the source (see `regatta ls sources`), or a folder that bears its name."
    ),
]
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
    """Read the lists, open every file once, and say what is there and what is wrong.

    Damaged files are listed by name; nothing is changed or deleted. Exit code 2 when a study would
    refuse the data.
    """
    source, root = _named_folder(source, root)
    if source == SCENES and root is not None:
        # A folder of scenes says itself what it was made with.
        overrides = [*(options_of_folder(root) or []), *(overrides or [])]
    facts = _facts(_scan(source, root, split, overrides, runs, as_json))
    _show(facts, as_json)
    if facts["damaged"] and facts["policy"] == "fail":
        raise typer.Exit(2)


@app.command()
def make(
    source: Source,
    root: Annotated[Path, typer.Option("--to", help="Folder to write.", show_default=False)],
    overrides: Options = None,
    subjects: Annotated[
        int | None, typer.Option("--subjects", help="Short for --set options.subjects=N.")
    ] = None,
    per_class: Annotated[
        int | None, typer.Option("--per-class", help="Scenes per class; --set options.per_class=N.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Draws data and splits; --set split_seed=N.")
    ] = None,
    cameras: Annotated[
        int | None, typer.Option("--cameras", help="Of scenes; --set options.cameras=N.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", help="Shown; --set options.frames=N.")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", help="Pixels of a side; --set options.size=N.")
    ] = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Generate a data set (rotors and paths as video files, trajectories as scenes of several
    cameras, har-synthetic as windows of signals, shapes as images); again = finish what is missing.
    """
    from regatta.core.errors import ConfigError
    from regatta.core.registry import SOURCES

    short = short_options(
        subjects=subjects,
        per_class=per_class,
        seed=seed,
        cameras=cameras,
        frames=frames,
        size=size,
    )
    overrides = [*(overrides or []), *short]

    SOURCES.check(source)
    if not SOURCES.listed[source].generates:
        makers = ", ".join(name for name, listed in SOURCES.listed.items() if listed.generates)
        raise ConfigError(
            f"the source '{source}' reads files and makes none",
            hint=f"sources that make files: {makers}; to look at files: regatta data check",
        )
    _show(_facts(_scan(source, root, 1, overrides, runs, as_json)), as_json)


app.command(name="import")(import_)
app.command(name="import-weights")(import_weights)


def _named_folder(source: str, root: Path | None) -> tuple[str, Path | None]:
    """`data/uci-har` stands for source uci-har with that root."""
    from regatta.core.registry import SOURCES

    folder = Path(source)
    if root is None and source not in SOURCES.listed and folder.is_dir():
        name = folder.resolve().name.lower().replace(" dataset", "").replace(" ", "-")
        if name in SOURCES.listed:
            return name, folder
        if options_of_folder(folder) is not None:
            return SCENES, folder
    return source, root


def _scan(
    source: str, root: Path | None, split: int, overrides: list[str] | None, runs: Path, quiet: bool
) -> tuple[Any, Any, str]:
    """The manifest with damaged files listed instead of raised, the windows or images where the
    source gives them, and the policy that the user asked for."""
    from regatta.config.load import apply_override, study_from_mapping
    from regatta.core.registry import SOURCES

    SOURCES.check(source)
    kind = SOURCES.listed[source].kind
    content: dict[str, Any] = {"source": source, "split": split}
    if root is not None:
        content["root"] = str(root)
    for override in overrides or []:
        apply_override(content, override)
    study = study_from_mapping(
        {
            "name": "data-check",
            "data": content,
            "entries": [_FITTING.get(kind, "cnn3d")],
        },
        where="regatta data",
    )
    lenient = study.data.model_copy(update={"damaged": "drop"})
    if kind == "image":
        from regatta.data.image_scan import scan_images

        scanned = scan_images(lenient)
        return scanned.manifest, scanned, study.data.damaged
    if kind == "scene":
        from regatta.data.scenes.scan import scan_scenes

        with _progress(quiet) as progress:
            scanned = scan_scenes(lenient, progress=progress)
        return scanned.manifest, scanned, study.data.damaged
    if kind == "signal":
        from regatta.data.window_scan import scan_windows

        scanned = scan_windows(lenient)
        return scanned.manifest, scanned, study.data.damaged
    from regatta.data.scan import build_manifest

    with _progress(quiet) as progress:
        manifest = build_manifest(
            lenient, cache_folder=runs / ".scan-cache", progress=progress, stop=None
        )
    return manifest, None, study.data.damaged


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


def _facts(scanned: tuple[Any, Any, str]) -> dict[str, Any]:
    manifest, content, policy = scanned
    splits = ("train", "validation", "test")
    samples = manifest.samples
    if manifest.folds:
        folds = [manifest.of_fold(fold) for fold in range(manifest.folds)]
        parted = {"folds": [{name: _split_facts(f, name) for name in splits} for f in folds]}
    else:
        parted = {"splits": {name: _split_facts(manifest, name) for name in splits}}
    return {
        "samples": len(samples),
        "classes": len(manifest.classes),
        **parted,
        **_content_facts(samples, content),
        "damaged": _listed(d for d in manifest.dropped if d.is_damage),
        "left_out": _listed(d for d in manifest.dropped if not d.is_damage),
        "notes": list(manifest.notes),
        "policy": policy,
        "hash": manifest.hash(),
    }


def _split_facts(manifest: Any, name: str) -> dict[str, int]:
    samples = manifest.split(name)
    return {
        "samples": len(samples),
        "groups": len({s.group for s in samples}),
        "classes": len({s.label for s in samples}),
    }


def _content_facts(samples: list[Any], content: Any) -> dict[str, Any]:
    if content is None:
        return _clip_facts(samples)
    if hasattr(content, "images"):
        from regatta.cli.data_images import image_facts

        return image_facts(content)
    if hasattr(content, "listing"):
        from regatta.cli.data_scenes import scene_facts

        return scene_facts(content)
    return _window_facts(content)


def _clip_facts(samples: list[Any]) -> dict[str, Any]:
    return {
        "frames": {
            "fewest": min(s.frames for s in samples),
            "most": max(s.frames for s in samples),
        },
        "fps": sorted({round(s.fps, 3) for s in samples}),
        "sizes": sorted({f"{s.width}x{s.height}" for s in samples}),
    }


def _window_facts(windows: Any) -> dict[str, Any]:
    manifest, (_, channels, length) = windows.manifest, windows.signals.shape
    return {
        "window": {
            "channels": channels,
            "samples": length,
            "rate_hz": windows.rate_hz,
            "seconds": length / windows.rate_hz,
        },
        "channels": list(windows.channels),
        "features": 0 if windows.features is None else windows.features.shape[1],
        "recordings": len({s.extra["recording"] for s in manifest.samples}),
        "groups": len({s.group for s in manifest.samples}),
        "class_names": manifest.classes,
    }


def _listed(dropped: Iterable[Any]) -> list[dict[str, str]]:
    return [{"path": item.path, "reason": item.reason} for item in dropped]


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        import json

        typer.echo(json.dumps(facts, indent=1))
    else:
        _print(facts)


def _print(facts: dict[str, Any]) -> None:
    word = next((f"{key}s" for key in ("window", "image", "scene") if key in facts), "samples")
    typer.echo(f"{facts['samples']} {word}, {facts['classes']} classes")
    for number, fold in enumerate(facts.get("folds", [])):
        counts = ", ".join(
            f"{name} {row['samples']} of {row['groups']} groups" for name, row in fold.items()
        )
        typer.echo(f"  fold {number:<3} {counts}")
    for name, row in facts.get("splits", {}).items():
        typer.echo(
            f"  {name:<11} {row['samples']:>6} {word}, {row['groups']:>5} groups,"
            f" {row['classes']:>4} classes"
        )
    for line in _content_lines(facts):
        typer.echo(f"  {line}")
    _print_remarks(facts)


def _content_lines(facts: dict[str, Any]) -> list[str]:
    if "image" in facts:
        from regatta.cli.data_images import image_lines

        return image_lines(facts)
    if "scene" in facts:
        from regatta.cli.data_scenes import scene_lines

        return scene_lines(facts)
    return _window_lines(facts) if "window" in facts else _clip_lines(facts)


def _clip_lines(facts: dict[str, Any]) -> list[str]:
    fps = ", ".join(f"{value:g}" for value in facts["fps"][:6])
    sizes = ", ".join(facts["sizes"][:6])
    return [f"frames {facts['frames']['fewest']}-{facts['frames']['most']}; fps {fps}; {sizes}"]


def _window_lines(facts: dict[str, Any]) -> list[str]:
    window = facts["window"]
    features = f"; {facts['features']} hand-made features" if facts["features"] else ""
    return [
        f"window of {window['channels']} channels x {window['samples']} samples at "
        f"{window['rate_hz']:g} Hz ({window['seconds']:.2f} s){features}",
        f"channels {', '.join(facts['channels'][:12])}",
        f"classes {', '.join(facts['class_names'][:12])}",
        f"{facts['groups']} groups; {facts['recordings']} stretches of overlapping windows",
    ]


def _print_remarks(facts: dict[str, Any]) -> None:
    for note in facts["notes"]:
        typer.echo(f"  note: {note}")
    for word, items in (("left out", facts["left_out"]), ("damaged", facts["damaged"])):
        if "window" in facts:
            items = _by_reason(items)
        for item in items[:SHOWN]:
            typer.echo(f"  {word}: {item['path']}: {item['reason']}")
        if len(items) > SHOWN:
            typer.echo(f"  {word}: {len(items) - SHOWN} more; --json lists all")
    if facts["damaged"]:
        typer.echo(
            "  next: repair or remove them, or set data.damaged: drop (listed in the report)"
        )


def _by_reason(items: list[dict[str, str]]) -> list[dict[str, str]]:
    """One line for all windows of one reason, with their number and the first of them."""
    names: dict[str, list[str]] = {}
    for item in items:
        names.setdefault(item["reason"], []).append(item["path"])
    return [
        {
            "path": f"{len(paths)} window(s), {', '.join(paths[:5])}{' ...' * (len(paths) > 5)}",
            "reason": reason,
        }
        for reason, paths in names.items()
    ]
