"""Weights, tensors of other programs, and the stores and checkpoints that torch programs read."""

from __future__ import annotations

import io
import json
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regatta.config.schema import EntrySection
from regatta.core.errors import ConfigError, DataError
from regatta.data.feature_cache import FeaturePart, _read, _write
from regatta.data.image_store import ImageStore
from regatta.data.import_cifar import import_cifar
from regatta.data.import_tensors import import_file
from regatta.data.scene_store import FRAMES_FILE, SceneStore
from regatta.data.scenes.settings import SceneSettings
from regatta.data.sources._window_arrays import read_arrays
from regatta.data.windows import WindowStore
from regatta.models.hub import read_json_object, read_normalisation
from regatta.models.import_weights import import_weights
from regatta.models.spec import resolve_model, seeded_build
from regatta.models.weights import load_checkpoint, load_model, read_state, save_model
from regatta.training.checkpoint import (
    SavedRun,
    pick_slot,
    read_best,
    read_slot,
    write_best,
    write_slot,
)
from tests.data.image_files import pictures, write_python_cifar100
from tests.evaluation.tiny_scenes import build_store
from tests.fuzz.tables_targets import safetensors_case
from tests.fuzz.target import Case, Target, on_disk, tree
from tests.fuzz.text_targets import JSON_WORDS

CLASSES = ["clap", "jump", "run"]
PICKLE_WORDS = (
    *(
        b"cos\nsystem\n",
        b"cbuiltins\neval\n",
        b"\x80\x02}q\x00",
        b"(dp0\n",
        b"R.",
        b"b.",
        b"\x93",
        b"\x81",
    ),
    *(b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", b"B\xff\xff\xff\x7f", b"r\xff\xff\xff\x7f", b"\x95"),
    *(
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"cnumpy\nndarray\n",
        b"c_codecs\nencode\n",
        b"Q",
        b"P1\n",
    ),
)


def _spec() -> Any:
    options = {"frames": 4, "image_size": 16}
    entry = EntrySection(
        name="cnn3d", model="cnn3d", size="tiny", checkpoint="none", options=options
    )
    return resolve_model(entry, len(CLASSES), seed=0)


def _model_folder(folder: Path) -> Any:
    torch.set_num_threads(1)
    spec = _spec()
    module = seeded_build(spec.build, 0)(len(CLASSES))
    save_model(folder, module, spec, CLASSES)
    return spec


def _checkpoint(folder: Path) -> Case:
    """A folder of weights that an entry names: the file, its header, the index, the settings."""
    spec = _model_folder(folder)
    good = tree(folder)
    weights = good["model.safetensors"]
    size = int.from_bytes(weights[:8], "little")
    shards = {"model-1.safetensors": weights}
    keys = list(read_state(folder))
    index = json.dumps({"weight_map": dict.fromkeys(keys, "model-1.safetensors")}).encode()
    files = {**good, "header": weights[8 : 8 + size], "index": index}
    target = seeded_build(spec.build, 1)(len(CLASSES))

    def parse(name: str, content: bytes) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        written = {**good}
        if name == "header":
            written["model.safetensors"] = (
                len(content).to_bytes(8, "little") + content + weights[8 + size :]
            )
        elif name == "index":
            written = {**written, **shards, "model.safetensors.index.json": content}
            del written["model.safetensors"]
        else:
            written[name] = content
        for file, text in written.items():
            (folder / file).write_bytes(text)
        read_normalisation(folder)
        report = load_checkpoint(target, spec, str(folder), classes=CLASSES)
        assert all(torch.isfinite(value).all() for value in target.state_dict().values())
        assert report.source

    return Case(files, parse)


def _saved_model(folder: Path) -> Case:
    _model_folder(folder)

    def parse() -> None:
        module, spec, classes = load_model(folder)
        assert len(set(classes)) == len(classes)
        assert all(torch.isfinite(value).all() for value in module.state_dict().values())
        frames = torch.zeros(1, 3, spec.frames, spec.image_size, spec.image_size)
        assert frames.numel()

    return on_disk(folder, parse, "config.json", "preprocessor_config.json", "model.safetensors")


def _saved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def _repacked(good: bytes, member: str, content: bytes) -> bytes:
    """A file of torch.save with one member changed and the sums of the archive right."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(stream, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, content if info.filename == member else old.read(info))
    return stream.getvalue()


@contextmanager
def _limited_time(path: Path) -> Iterator[None]:
    """Both imports read in a process that is ended when it takes long; here it is told so."""

    def refuse(*_: object) -> None:
        raise DataError("reading the files takes too long", where=path)

    before = signal.signal(signal.SIGPROF, refuse)
    signal.setitimer(signal.ITIMER_PROF, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _torch_file(good: bytes, path: Path, read: Callable[[], None]) -> Case:
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        names = archive.namelist()
        members = {name: archive.read(name) for name in names if "data" in name.rpartition("/")[2]}

    def parse(name: str, content: bytes) -> None:
        path.write_bytes(content if name == "whole" else _repacked(good, name, content))
        with _limited_time(path):
            read()

    return Case({"whole": good, **members}, parse)


def _tensors(folder: Path) -> Case:
    torch.set_num_threads(1)
    good = _saved({"samples": torch.ones(4, 2, 6), "labels": torch.tensor([0, 1, 0, 1])})
    path, out = folder / "train.pt", folder / "out"

    def read() -> None:
        try:
            done = import_file(path, out, rate_hz=50.0)
            arrays, _ = read_arrays(done.path)
            assert len(arrays["samples"]) == len(arrays["labels"])
        except BaseException:
            assert not (out.is_dir() and any(out.iterdir())), "left behind by an import that failed"
            raise
        finally:
            shutil.rmtree(out, ignore_errors=True)

    return _torch_file(good, path, read)


def _published_weights(folder: Path) -> Case:
    torch.set_num_threads(1)
    state = {"conv.weight": torch.ones(2, 3), "fc.bias": torch.zeros(4, dtype=torch.float16)}
    good = _saved({"model": state, "epoch": 3})
    path, out = folder / "model.pth", folder / "out"

    def read() -> None:
        try:
            import_weights([path], out)
            read_state(out)
        except BaseException:
            assert not (out.is_dir() and any(out.iterdir())), "left behind by an import that failed"
            raise
        finally:
            shutil.rmtree(out, ignore_errors=True)

    return _torch_file(good, path, read)


def _cifar_python(folder: Path) -> Case:
    root, out = folder / "in", folder / "out"
    write_python_cifar100(root, {"train": pictures(2), "test": pictures(1)})

    def parse(name: str, content: bytes) -> None:
        for file, good in files.items():
            (root / file).write_bytes(content if file == name else good)
        try:
            import_cifar(root, out)
        except BaseException:
            assert not (out.is_dir() and any(out.iterdir())), "left behind by an import that failed"
            raise
        finally:
            shutil.rmtree(out, ignore_errors=True)

    files = tree(root)
    return Case(files, parse)


def _window_store(folder: Path) -> Case:
    path = folder / "windows.safetensors"
    WindowStore(
        ["a", "b"], torch.ones(2, 3, 8), ("x", "y", "z"), 50.0, ((0, 1, 2),), torch.ones(2, 4)
    ).save(path)

    def read() -> None:
        found = WindowStore.load(path)
        assert found.signals.ndim == 3
        assert len(found.ids) == len(set(found.ids)) == len(found.signals)
        assert len(found.channels) == found.signals.shape[1]
        assert found.rate_hz > 0
        assert all(0 <= place < len(found.channels) for triple in found.triples for place in triple)

    return safetensors_case(path.read_bytes(), path, read)


def _image_store(folder: Path) -> Case:
    path = folder / "images.safetensors"
    rows = {"expert-0": torch.tensor([0])}
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    ImageStore(["a", "b"], images, (0.5,) * 3, (0.2,) * 3, rows).save(path)

    def read() -> None:
        found = ImageStore.load(path)
        assert len(found.ids) == len(set(found.ids)) == len(found.images)
        assert len(found.mean) == len(found.std) == 3
        torch.tensor([*found.mean, *found.std])

    return safetensors_case(path.read_bytes(), path, read)


def _scene_store(folder: Path) -> Case:
    settings = SceneSettings(per_class=1, cameras=2, frames=16, size=32, seed=4)
    store = build_store(settings)
    store.save(folder)
    (folder / FRAMES_FILE).write_bytes(np.asarray(store.pictures).tobytes())

    def parse() -> None:
        found = SceneStore.load(folder)
        assert len(found.ids) == len(set(found.ids)) == len(found.labels)
        assert found.pictures is None or found.pictures.dtype == np.uint8

    return on_disk(folder, parse)


def _features(folder: Path) -> Case:
    from regatta.data.feature_cache import _File

    path = folder / "features.safetensors"
    part = FeaturePart(torch.ones(2, 3, 8), ["a", "b"], {"encoder": "x"})
    _write(path, _File(torch.ones(2, 4), 0.5), part, 0)

    def read() -> None:
        found = _read(path, part, 0)
        if isinstance(found, str):
            raise ConfigError(found, where=path)
        assert len(found.features) == 2
        assert np.isfinite(found.seconds)

    return safetensors_case(path.read_bytes(), path, read)


def _slots(folder: Path) -> Case:
    """Checkpoints; the manifest of a damaged file is that of the damage."""
    root = folder / "checkpoints"
    root.mkdir()
    weights = {"w": torch.ones(3)}
    best = {**write_best(root, weights, epoch=1), "epoch": 1, "value": 0.5}
    record = {"identity": {"content_hash": "abc"}, "progress": {"best": best, "step": 3}}
    slot = write_slot(root, SavedRun(weights, {"m": torch.zeros(3)}, record))
    good = tree(root)
    place = slot.name

    def parse(name: str, content: bytes) -> None:
        shutil.rmtree(root)
        written = {**good, name: content}
        if name.startswith(place) and not name.endswith("manifest.json"):
            manifest = json.loads(good[f"{place}/manifest.json"])
            manifest[Path(name).name]["sha256"] = sha256(content).hexdigest()
            written[f"{place}/manifest.json"] = json.dumps(manifest).encode()
        for file, text in written.items():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(text)
        found = pick_slot(root, identity={"content_hash": "abc"})
        if found is not None:
            saved = read_slot(found)
            read_best(root, saved.record["progress"]["best"] or best)

    return Case(good, parse)


def _hub_json(folder: Path) -> Case:
    facts = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2], "size": {"height": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))

    def parse() -> None:
        read_json_object(folder / "preprocessor_config.json")
        found = read_normalisation(folder)
        assert found is not None
        assert all(np.isfinite(value) for values in found for value in values)

    return on_disk(folder, parse)


TARGETS = [
    Target("checkpoint", _checkpoint, JSON_WORDS, quick=150, soak=10_000),
    Target("saved-model", _saved_model, JSON_WORDS, quick=100, soak=5_000),
    Target("hub-json", _hub_json, JSON_WORDS, quick=200, soak=30_000),
    Target("tensors", _tensors, PICKLE_WORDS, quick=150, soak=10_000, seconds=6.0),
    Target(
        "published-weights", _published_weights, PICKLE_WORDS, quick=150, soak=10_000, seconds=6.0
    ),
    Target("cifar-python", _cifar_python, PICKLE_WORDS, quick=200, soak=20_000),
    Target("window-store", _window_store, JSON_WORDS, quick=200, soak=20_000),
    Target("image-store", _image_store, JSON_WORDS, quick=200, soak=20_000),
    Target("scene-store", _scene_store, JSON_WORDS, quick=100, soak=10_000),
    Target("features", _features, JSON_WORDS, quick=200, soak=20_000),
    Target("slots", _slots, JSON_WORDS, quick=150, soak=10_000),
]
