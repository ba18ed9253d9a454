"""Where a checkpoint comes from: a local folder in hub layout, or `org/name[@revision]` on the hub.

Only safetensors and JSON are ever fetched or read. Free of torch and transformers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from regatta.core.errors import EnvironmentFault, RecordError, WeightsError
from regatta.core.files import read_json

PART = r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9_])?"
HUB_ID = re.compile(
    rf"(?!.*\.\.|[^@]*--)(?P<name>{PART}/{PART})(@(?P<revision>\w[\w./-]*))?", re.ASCII
)
"""The hub's own rules for `org/name`; no `..`, because both parts become paths in the cache."""
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
WEIGHT_FILES = (SINGLE_FILE, "model-*.safetensors", INDEX_FILE, "config.json")
PROCESSOR_FILE = "preprocessor_config.json"
PROCESSOR_FILES = (PROCESSOR_FILE, "video_preprocessor_config.json")
"""Newer video models are published with the second name; the first is taken when both are there."""

HUB_SECONDS = 10.0
"""How long the hub may take to answer before the cache must do."""


def checkpoint_folder(
    checkpoint: str, files: Sequence[str] = (*WEIGHT_FILES, *PROCESSOR_FILES)
) -> Path:
    """The folder that holds `checkpoint`, downloaded first when it is a hub id.

    Args:
        checkpoint: a local folder, or `org/name` or `org/name@revision`.
        files: file name patterns to download; a local folder is taken as it is.

    Raises:
        WeightsError: neither an existing folder nor a hub id.
        EnvironmentFault: the hub cannot be reached and the cache does not hold it.
    """
    local = Path(checkpoint).expanduser()
    if local.is_dir():
        return local
    match = HUB_ID.fullmatch(checkpoint)
    if match is None or local.exists():
        raise WeightsError(
            f"there is no checkpoint folder '{checkpoint}'",
            where=local.absolute(),
            hint="give a folder with model.safetensors and config.json, "
            "a hub id `org/name@revision`, or `checkpoint: none` for random weights",
        )
    return _download(match["name"], match["revision"], files)


def describe_source(checkpoint: str, folder: Path) -> str:
    """The checkpoint's name for reports; a hub id is given with the commit that was really read."""
    if Path(checkpoint).expanduser().is_dir():
        return checkpoint
    return f"{checkpoint.split('@')[0]}@{folder.name}"


def read_normalisation(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """(mean, std) per channel on pixels in [0, 1] from the processor file; None without the file.

    `image_mean` and `image_std` are taken as they stand. ViViT's published file also carries a
    `rescale_factor` of 1/127.5; the library would apply both and reach [-3, 1], but the weights
    were trained on [-1, 1], which mean 0.5 and std 0.5 on [0, 1] give.
    """
    path = processor_file(folder)
    if path is None:
        return None
    content = read_json_object(path)
    try:
        mean = tuple(float(value) for value in content["image_mean"])
        std = tuple(float(value) for value in content["image_std"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            "the processor file has no usable image_mean and image_std", where=path
        ) from error
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise WeightsError(
            "image_mean and image_std must be three numbers, std above 0", where=path
        )
    return mean, std


def processor_file(folder: Path) -> Path | None:
    """The file that says how clips are prepared, by either of its names; None without one."""
    return next((folder / name for name in PROCESSOR_FILES if (folder / name).is_file()), None)


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object. Raises WeightsError otherwise."""
    try:
        content = read_json(path)
    except RecordError as error:
        raise WeightsError(
            error.what, where=path, hint="save or download the checkpoint again"
        ) from error
    if not isinstance(content, dict):
        raise WeightsError("file must hold one JSON object", where=path)
    return content


def _download(name: str, revision: str | None, files: Sequence[str]) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    # The base of this error is that of the HTTP client, which differs between hub versions.
    network_errors = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)
    only_cache, reason = bool(constants.HF_HUB_OFFLINE), "HF_HUB_OFFLINE is set"
    if not only_cache:
        try:
            # The library's own first question waits for ever for a hub that does not answer.
            HfApi().repo_info(name, revision=revision, timeout=HUB_SECONDS)
        except network_errors as error:
            only_cache, reason = True, type(error).__name__
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(files),
            local_files_only=only_cache,
        )
    except network_errors as error:
        reason = reason if only_cache else type(error).__name__
        where = f"{name}@{revision}" if revision else name
        raise EnvironmentFault(
            f"checkpoint {where} is not in the cache and cannot be fetched ({reason})",
            where=f"cache: {constants.HF_HUB_CACHE}",
            hint=f"on a machine with network run `hf download {name}"
            + (f" --revision {revision}" if revision else "")
            + "` and copy the cache, give a local folder, or use `checkpoint: none`",
        ) from error
    return Path(folder)
