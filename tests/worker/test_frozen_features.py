"""A frozen encoder runs once per window, and nobody can tell from the result."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from regatta.core.errors import StopRequested
from regatta.core.files import read_json
from regatta.core.signals import StopFlag
from regatta.data.manifest import Manifest
from regatta.data.windows import WindowStore
from regatta.models.spec import resolve_model
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.worker import frozen_features
from regatta.worker.frozen_features import FrozenEncoder, augmented_views
from tests.worker.small_windows import drawn, small_study, train_entry

CPU = torch.device("cpu")


def results(run: RunFolder) -> dict[str, Any]:
    return read_json(run.training_results)


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(run.model / "model.safetensors")


def encoding_seconds(folder: StudyFolder) -> float:
    """What the files of the cache say that making them took."""
    total = 0.0
    for path in channel_files(folder):
        with safe_open(path, framework="pt") as file:
            total += json.loads(file.metadata()["regatta"])["seconds"]
    return total


def channel_files(folder: StudyFolder) -> set[Path]:
    return set(folder.features.rglob("channel-*.safetensors"))


@pytest.mark.parametrize("pool", ["mean", "attention"])
def test_cached_features_give_the_model_that_encoding_in_every_epoch_gives(
    tmp_path: Path, pool: str
):
    anew = drawn("anew", pool=pool, train={"feature_cache": False})
    folder = small_study(tmp_path, [drawn("cached", pool=pool), anew])
    cached, encoded = train_entry(folder, "cached"), train_entry(folder, "anew")
    assert channel_files(folder)
    for key in ("train_loss", "train_acc", "val_loss", "val_acc"):
        found = [results(run)["history"][key] for run in (cached, encoded)]
        np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-5)
    first, second = weights(cached), weights(encoded)
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=1e-5)
    for key in ("parameters", "trained_parameters", "flops_per_clip"):
        assert results(cached)[key] == results(encoded)[key]


def test_features_over_the_limit_are_encoded_anew_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    views = {"augment": "standard", "augment_views": 2}
    folder = small_study(tmp_path / "cached", [drawn("flat")], **views)
    cached = train_entry(folder, "flat")
    monkeypatch.setattr(frozen_features, "FEATURE_LIMIT_GIB", 1e-6)
    folder = small_study(tmp_path / "anew", [drawn("flat")], **views)
    anew = train_entry(folder, "flat")
    assert not channel_files(folder)
    assert "every epoch encodes anew: they would take" in capsys.readouterr().out
    found = [results(run)["history"]["val_loss"] for run in (cached, anew)]
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-5)


def test_modes_heads_and_recipes_share_one_encoding(tmp_path: Path):
    others = [
        drawn("average", mode="average"),
        drawn("first", mode="first", first_channel=3),
        drawn("deep", head=[32, 16], train={"lr": 0.01, "label_smoothing": 0.1}),
    ]
    folder = small_study(tmp_path, [drawn("flatten"), *others])
    train_entry(folder, "flatten")
    before = {path: path.stat().st_mtime_ns for path in channel_files(folder)}
    assert len(before) == 2 * 9
    for entry in others:
        train_entry(folder, entry["name"])
    assert {path: path.stat().st_mtime_ns for path in channel_files(folder)} == before


def test_the_first_epoch_pays_for_the_encoding(tmp_path: Path):
    folder = small_study(tmp_path, [drawn("flatten"), drawn("average", mode="average")])
    for name in ("flatten", "average"):
        seconds = results(train_entry(folder, name))
        times = seconds["history"]["epoch_times"]
        # Held against the recorded seconds, not against a later epoch: on a busy machine any epoch
        # may take longest.
        assert times[0] > encoding_seconds(folder) > 0
        assert seconds["train_seconds"] >= sum(times) * 0.99


def test_a_stop_request_while_encoding_ends_the_run_and_the_next_start_finishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = small_study(tmp_path, [drawn("flat")])
    stop = StopFlag()
    encode = FrozenEncoder.encode
    calls: list[int] = []

    def asked(self: FrozenEncoder, signals_BCL: torch.Tensor, channel: int) -> torch.Tensor:
        calls.append(channel)
        if channel == 2:
            stop.request("SIGTERM")
        return encode(self, signals_BCL, channel)

    monkeypatch.setattr(FrozenEncoder, "encode", asked)
    with pytest.raises(StopRequested) as caught:
        train_entry(folder, "flat", stop=stop)
    assert caught.value.exit_code == 143
    done = {path.stem for path in channel_files(folder)}
    assert {"channel-0", "channel-1"} <= done
    assert "channel-3" not in done
    assert train_entry(folder, "flat").is_trained()
    # Every channel of two splits once; each start asks once how large the features will be.
    assert len(calls) == 2 * 9 + 2


class StopAfter(StopFlag):
    """Asks for a stop once it was looked at so often."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    @property
    def requested(self) -> bool:
        self.looks -= 1
        if self.looks == 0:
            self.request("SIGTERM")
        return super().requested


def test_a_run_on_cached_features_goes_on_bit_by_bit_after_a_stop(tmp_path: Path):
    folder = small_study(tmp_path / "whole", [drawn("flat")], epochs=4)
    whole = train_entry(folder, "flat")
    folder = small_study(tmp_path / "parted", [drawn("flat")], epochs=4)
    with pytest.raises(StopRequested, match=r"the state of step [1-9]"):
        train_entry(folder, "flat", stop=StopAfter(46))
    parted = train_entry(folder, "flat")
    first, second = weights(whole), weights(parted)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert results(whole)["history"]["val_loss"] == results(parted)["history"]["val_loss"]


def encoder_of(folder: StudyFolder, entry: dict[str, Any], seed: int = 0) -> FrozenEncoder:
    """The encoder of a run on all training windows, as the worker would have it."""
    spec, _ = folder.runs()[0]
    store = WindowStore.load(folder.windows)
    changed = spec.entry.model_validate(entry)
    model = resolve_model(changed, 6, seed=seed, window=store.window)
    module: Any = model.build(6)
    module.fit_statistics(store.select(Manifest.load(folder.manifest).split("train")))
    return FrozenEncoder(module, spec, CPU, lambda _: None, StopFlag())


def test_all_that_features_depend_on_is_in_their_key_and_nothing_else(tmp_path: Path):
    folder = small_study(tmp_path, [drawn("flat")])
    store = WindowStore.load(folder.windows)
    samples = Manifest.load(folder.manifest).split("train")
    signals = store.select(samples)

    def key(encoder: FrozenEncoder, rows: slice = slice(None), view: int = 0) -> str:
        return encoder.part(signals[rows], samples[rows], view).key

    plain = encoder_of(folder, drawn("flat"))
    keys = {
        "plain": key(plain),
        "fewer windows": key(plain, slice(10)),
        "other windows": key(plain, slice(10, 20)),
        "a view": key(plain, view=1),
        "another view": plain.part(1.1 * signals, samples, 2).key,
        "weights": key(encoder_of(folder, drawn("flat"), seed=1)),
        "scale": key(encoder_of(folder, drawn("flat", scale="window"))),
        "kind": key(encoder_of(folder, drawn("flat", kind="heatmap"))),
        "pool": key(encoder_of(folder, drawn("flat", pool="attention"))),
        "average-image": key(encoder_of(folder, drawn("flat", mode="average-image"))),
        "precision": key(low_precision(plain)),
        "range": key(measured_on(encoder_of(folder, drawn("flat")), 2 * signals)),
    }
    assert len(set(keys.values())) == len(keys), keys
    same = [drawn("other"), drawn("flat", mode="average"), drawn("flat", head=[4], dropout=0.5)]
    assert {key(encoder_of(folder, entry)) for entry in same} == {keys["plain"]}


def low_precision(encoder: FrozenEncoder) -> FrozenEncoder:
    train = encoder.run_spec.train.model_copy(update={"precision": "bf16"})
    run_spec = replace(encoder.run_spec, train=train)
    return FrozenEncoder(encoder.module, run_spec, CPU, encoder.report, encoder.stop)


def measured_on(encoder: FrozenEncoder, signals: torch.Tensor) -> FrozenEncoder:
    module: Any = encoder.module
    module.fit_statistics(signals)
    return FrozenEncoder(module, encoder.run_spec, CPU, encoder.report, encoder.stop)


def test_views_are_the_window_itself_and_seeded_variants(tmp_path: Path):
    views = {"augment": "standard", "augment_views": 3}
    folder = small_study(tmp_path, [drawn("flat")], **views)
    (run_spec, _), *_ = folder.runs()
    store = WindowStore.load(folder.windows)
    samples = Manifest.load(folder.manifest).split("train")
    found = augmented_views(run_spec, store, samples)
    again = augmented_views(run_spec, store, samples)
    assert torch.equal(found[0], store.select(samples))
    assert [torch.equal(one, two) for one, two in zip(found, again, strict=True)] == [True] * 3
    assert not torch.equal(found[1], found[2])
    # Gain within 10 %, noise of at most 5 % of a channel's sd: the class is still to be seen.
    spread = store.select(samples).std(dim=(0, 2))
    gap = (found[1] - found[0]).abs() - 0.1 * found[0].abs()
    assert bool((gap.amax(dim=(0, 2)) < 6 * 0.05 * spread).all())


def test_statistics_are_measured_on_the_share_of_labels_that_is_trained_on(tmp_path: Path):
    entry = {"name": "net", "model": "cnn1d"}
    folder = small_study(tmp_path, [entry], label_fraction=0.3, freeze_encoder=False, batch_size=8)
    run = train_entry(folder, "net")
    rows = list(csv.DictReader(run.label_indices.read_text().splitlines()))
    store, manifest = WindowStore.load(folder.windows), Manifest.load(folder.manifest)
    of_id = {sample.sample_id: sample for sample in manifest.split("train")}
    chosen = [of_id[row["sample_id"]] for row in rows]
    assert [sample.label for sample in chosen] == [int(row["label"]) for row in rows]
    per_class = len(of_id) // 6
    counts = np.bincount([sample.label for sample in chosen], minlength=6)
    assert set(counts) == {max(1, round(0.3 * per_class))}
    expected = store.select(chosen).double().mean(dim=(0, 2))
    torch.testing.assert_close(weights(run)["standardise.mean_C"].double(), expected)
    assert results(run)["samples_seen"] == 2 * len(chosen)
