"""Weights in and out: an exact account of every key, safetensors and JSON only.

Files of a model folder, the hub's layout: model.safetensors, config.json (with a `regatta` key),
preprocessor_config.json.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace as with_changes
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import nn

from regatta.core.errors import ConfigError, DataError, WeightsError
from regatta.core.files import path_under, write_bytes, write_json
from regatta.core.registry import MODELS
from regatta.models.account import account_keys
from regatta.models.contracts import SizedByFit
from regatta.models.encoder_files import check_own, is_own, normalisation_note, read_published
from regatta.models.hub import (
    INDEX_FILE,
    PROCESSOR_FILE,
    SINGLE_FILE,
    checkpoint_folder,
    describe_source,
    processor_file,
    read_json_object,
    read_normalisation,
)
from regatta.models.key_report import KeyReport, list_keys
from regatta.models.spec import (
    ModelSpec,
    State,
    check_default_checkpoint,
    clean_key,
    make_spec,
    seeded_build,
    starts_at_random,
    unwrap,
)

EQUAL_SETTINGS = {"gelu_fast": "gelu_pytorch_tanh"}
"""Two names of one function in config.json."""
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pyth")


def load_checkpoint(
    module: nn.Module, spec: ModelSpec, checkpoint: str, *, classes: Sequence[str] | None = None
) -> KeyReport:
    """Load `checkpoint` into `module` and account for every key.

    Args:
        module: built from `spec`.
        checkpoint: `none` (the random weights stay), `default`, a folder in hub layout, or
            `org/name[@revision]`.
        classes: the study's classes. The checkpoint's head is kept only when its labels are exactly
            these, in this order; without them, or else, the head stays random.

    Raises:
        WeightsError: anything but the head is missing, unexpected or reshaped (keys are listed),
            the architecture or normalisation differs, or the file is damaged or no safetensors.
        EnvironmentFault: the hub cannot be reached and the cache does not hold it.
    """
    if starts_at_random(spec, checkpoint):
        return KeyReport(source="none")
    if checkpoint == "default":
        checkpoint = check_default_checkpoint(spec)
    folder = checkpoint_folder(checkpoint)
    config = _read_config(spec, folder)
    _check_architecture(spec, config, folder)
    inner = unwrap(module)
    target = inner.state_dict()
    state, facts = _read_as_ours(folder, target, spec, config)
    labels = read_labels(config, where=folder / "config.json")
    keep_head = classes is not None and labels == list(classes)
    report, fitted = account_keys(target, state, spec, config, keep_head=keep_head)
    report = with_changes(report, source=describe_source(checkpoint, folder), **facts)
    report.refuse_misfit(folder, can_allow=spec.layout.encoder is not None)
    _refuse_non_finite(fitted, folder)
    inner.load_state_dict({**target, **fitted}, strict=True)
    return report


def save_model(
    folder: Path,
    module: nn.Module,
    spec: ModelSpec,
    classes: Sequence[str],
    extra: dict[str, Any] | None = None,
) -> None:
    """Write `module` in hub layout; each file whole or not at all, config.json last.

    Args:
        folder: created if absent; an older model in it is replaced.
        module: may be wrapped by `torch.compile` or DistributedDataParallel; keys carry no trace.
        classes: names in the order of the logits.
        extra: JSON kept under `regatta.extra` in config.json.

    Raises:
        DiskError: the folder cannot be written.
        DataError: class names repeat, or their number is not the head's.
    """
    folder = Path(folder)
    inner = unwrap(module)
    _check_classes(inner, spec, classes)
    state = {}
    for key, tensor in inner.state_dict().items():
        name = clean_key(key).removeprefix(spec.layout.prefix)
        for ours, written in spec.layout.save_names:
            name = name.replace(ours, written)
        state[name] = tensor.detach().to("cpu").contiguous()
    write_bytes(folder / SINGLE_FILE, to_safetensors(state, metadata={"format": "pt"}))
    if spec.kind != "signal":
        write_json(folder / PROCESSOR_FILE, _processor(spec))
    write_json(folder / "config.json", _config(inner, spec, classes, extra))


def load_model(folder: Path) -> tuple[nn.Module, ModelSpec, list[str]]:
    """The module (on the CPU, in evaluation mode), spec and classes that `save_model` wrote.

    Raises:
        WeightsError: the folder was not written by Regatta, or a key or shape does not fit.
    """
    folder = Path(folder)
    config = read_json_object(folder / "config.json")
    spec = _saved_spec(config, folder)
    classes = read_labels(config, where=folder / "config.json")
    if len(set(classes)) < max(1, len(classes)):
        raise WeightsError("it names no class, or one twice", where=folder / "config.json")
    module = seeded_build(spec.build, 0)(len(classes))
    if isinstance(module, SizedByFit):
        module.take_sizes(read_state(folder))
    report = load_checkpoint(module, spec, str(folder), classes=classes)
    if report.interpolated:
        raise WeightsError("positions do not fit the saved options", where=folder / "config.json")
    if absent := [*report.new_head, *report.allowed]:
        raise WeightsError(f"no tensors for {list_keys(absent)}", where=folder)
    return module.eval(), spec, classes


def read_state(folder: Path) -> State:
    """All tensors of a folder: model.safetensors, or the shards that its index names.

    Raises:
        WeightsError: no safetensors (a pickle is never opened), a shard is missing, or damage.
    """
    if (folder / SINGLE_FILE).is_file():
        return _read_file(folder / SINGLE_FILE)
    if not (folder / INDEX_FILE).is_file():
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
        raise WeightsError(
            f"only {', '.join(pickled)}, which could run code when opened"
            if pickled
            else f"no {SINGLE_FILE}",
            where=folder,
            hint=_conversion_hint(pickled),
        )
    index = read_json_object(folder / INDEX_FILE)
    try:
        shards = sorted(set(index["weight_map"].values()))
    except (KeyError, AttributeError, TypeError) as error:
        raise WeightsError("the index has no weight_map", where=folder / INDEX_FILE) from error
    state: State = {}
    for shard in shards:
        state.update(_read_file(path_under(folder, shard, where=folder / INDEX_FILE)))
    absent = sorted(set(index["weight_map"]) - set(state))
    if absent:
        raise WeightsError(f"shards lack keys of the index: {list_keys(absent)}", where=folder)
    return state


def read_labels(config: dict[str, Any], *, where: Path) -> list[str]:
    """Class names in the order of the logits, from `id2label`. Raises WeightsError on gaps.

    Args:
        where: the file, for the error.
    """
    labels = config.get("id2label") or {}
    try:
        return [str(labels[str(index)]) for index in range(len(labels))]
    except (KeyError, TypeError) as error:
        raise WeightsError("id2label does not number the classes from 0", where=where) from error


def _conversion_hint(pickled: list[str]) -> str:
    if not pickled:
        return f"give a folder with {SINGLE_FILE}"
    return (
        f"turn it into {SINGLE_FILE} once: regatta data import-weights {' '.join(pickled)} --to "
        "FOLDER; on the hub look for a revision `refs/pr/N` that has it"
    )


def _read_config(spec: ModelSpec, folder: Path) -> dict[str, Any]:
    """config.json, or nothing where a bare model.safetensors says all by its keys and shapes."""
    path = folder / "config.json"
    return {} if spec.layout.config_optional and not path.exists() else read_json_object(path)


def _read_file(path: Path) -> State:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"file cannot be read as safetensors: {error}",
            where=path,
            hint="save or download the checkpoint again",
        ) from error


def _read_as_ours(
    folder: Path, target: State, spec: ModelSpec, config: dict[str, Any]
) -> tuple[State, dict[str, Any]]:
    """The tensors of a folder by the module's keys, and facts for the key report."""
    state = read_state(folder)
    files = spec.layout.encoder
    if files is None:
        _check_normalisation(spec, folder)
        return _rename(state, spec, folder), {"notes": _unsaid_normalisation(spec, folder)}
    if is_own(state):
        check_own(config, files, folder)
        return state, {}
    state, unused = read_published(state, files, folder)
    note = normalisation_note(state, target, read_normalisation(folder))
    return state, {"unused": unused, "notes": (note,)}


def _rename(state: State, spec: ModelSpec, folder: Path) -> State:
    renamed: State = {}
    for key, tensor in state.items():
        name = key
        for published, ours in spec.layout.load_names:
            name = name.replace(published, ours)
        name = spec.layout.prefix + name
        if name in renamed:
            raise WeightsError(f"two tensors of the file stand for {name}", where=folder)
        renamed[name] = tensor
    return renamed


def _check_architecture(spec: ModelSpec, config: dict[str, Any], folder: Path) -> None:
    """Refuse what shapes do not betray: 4 heads read as 6 load cleanly and answer wrongly."""
    differing = [
        f"{key}: {config[key]!r} in the checkpoint, {wanted!r} in the model"
        for key, wanted in spec.layout.architecture.items()
        if key in config and _comparable(config[key]) != _comparable(wanted)
    ]
    if differing:
        raise WeightsError(
            f"the checkpoint is another architecture ({'; '.join(differing)})",
            where=folder / "config.json",
            hint="choose the model, size and options that the checkpoint was made with",
        )


def _comparable(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return list(value)
    return EQUAL_SETTINGS.get(value, value) if isinstance(value, str) else value


def _check_normalisation(spec: ModelSpec, folder: Path) -> None:
    found = read_normalisation(folder)
    if found is None:
        return
    gaps = [
        abs(a - b) for a, b in zip((*found[0], *found[1]), (*spec.mean, *spec.std), strict=True)
    ]
    if max(gaps) > 1e-6:
        raise WeightsError(
            f"the checkpoint was trained with mean {list(found[0])} and std {list(found[1])}, "
            f"clips would be given with mean {list(spec.mean)} and std {list(spec.std)}",
            where=processor_file(folder),
            hint="resolve the entry with this checkpoint, so that its normalisation is used",
        )


def _unsaid_normalisation(spec: ModelSpec, folder: Path) -> tuple[str, ...]:
    """What a user must know of weights that came without a word on their pictures' scale."""
    listed = MODELS.listed.get(spec.name)
    if read_normalisation(folder) is not None or listed is None or listed.kind != "video":
        return ()
    return (
        f"the checkpoint does not say how its pictures were scaled: mean {list(spec.mean)} and "
        f"std {list(spec.std)} of the model are taken",
    )


def _refuse_non_finite(state: State, folder: Path) -> None:
    bad = [key for key, tensor in state.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise WeightsError(f"NaN or infinite weights: {list_keys(bad)}", where=folder)


def _check_classes(inner: nn.Module, spec: ModelSpec, classes: Sequence[str]) -> None:
    if len(set(classes)) != len(classes):
        raise DataError("class names must differ", hint="rename classes that are spelled alike")
    heads = [
        tensor
        for key, tensor in inner.state_dict().items()
        if clean_key(key).startswith(spec.head_prefixes)
    ]
    if not heads or heads[-1].shape[0] != len(classes):
        found = heads[-1].shape[0] if heads else "no"
        raise DataError(f"{len(classes)} class names for a head with {found} outputs")


def _processor(spec: ModelSpec) -> dict[str, Any]:
    side = spec.image_size
    crops = spec.resize == "crop"
    return {
        "do_resize": True,
        "size": {"shortest_edge": side} if crops else {"height": side, "width": side},
        "resample": 2,
        "do_center_crop": crops,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
        **spec.layout.processor,
    }


def _config(
    inner: nn.Module, spec: ModelSpec, classes: Sequence[str], extra: dict[str, Any] | None
) -> dict[str, Any]:
    library = getattr(inner, "hf", None)
    content = json.loads(library.config.to_json_string(use_diff=False)) if library else {}
    return {
        **content,
        "architectures": [type(library or inner).__name__],
        "model_type": spec.layout.architecture.get("model_type", spec.name),
        "id2label": {str(index): name for index, name in enumerate(classes)},
        "label2id": {name: index for index, name in enumerate(classes)},
        "regatta": {
            **spec.config,
            "frames": spec.frames,
            "image_size": spec.image_size,
            "mean": list(spec.mean),
            "std": list(spec.std),
            "resize": spec.resize,
            "window": spec.window,
            "extra": extra or {},
        },
    }


def _saved_spec(config: dict[str, Any], folder: Path) -> ModelSpec:
    saved: Any = config.get("regatta")
    try:
        window = tuple(saved["window"]) if saved.get("window") else None
        spec = make_spec(
            saved["name"], saved["size"], saved["options"], window=window, where=folder
        )
        return with_changes(
            spec,
            mean=tuple(float(value) for value in saved["mean"]),
            std=tuple(float(value) for value in saved["std"]),
            resize="squash" if saved["resize"] == "squash" else "crop",
        )
    except ConfigError as error:
        raise WeightsError(error.what, where=folder / "config.json", hint=error.hint) from error
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise WeightsError(
            "this folder was not written by Regatta",
            where=folder / "config.json",
            hint="name it as an entry's `checkpoint:` instead",
        ) from error
