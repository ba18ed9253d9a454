"""Promises of judging scenes: equal to each scene alone, resumable, sharded, with true places."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regatta.core.errors import StopRequested
from regatta.core.signals import StopFlag
from regatta.data.scenes.settings import CLASSES
from regatta.data.transforms import normalise
from regatta.evaluation.judge_scenes import (
    complete_scenes,
    frame_truth,
    judge_elsewhere,
)
from regatta.evaluation.judged_parts import ood_entry
from regatta.evaluation.scene_ood import open_ood_scenes
from regatta.evaluation.scene_protocols import UNCHANGED
from regatta.evaluation.track_shape import fit_turns
from regatta.records.predictions import read_run_predictions
from tests.evaluation.tiny_judging import hashes, parts_of, rows_of, table_of
from tests.evaluation.tiny_scenes import (
    SETTINGS,
    TinyScenes,
    build_store,
    entry,
    judge,
    part_of,
    protocol,
    samples_of,
)

ROOT = Path(__file__).parents[2]
ROBUST = protocol(
    frames=[4],
    stride=[4],
    noise=[0.1],
    blur=[],
    dropped=[0.25],
    camera=[3],
    distractors=[3],
    views_missing=[1],
    crf=[28],
)


@pytest.fixture(scope="module")
def store():
    return build_store()


def complete(judged, store, design=ROBUST) -> bool:
    return complete_scenes(judged, samples_of(store), design, part_samples=5, classes=CLASSES)


def read(folder):
    return read_run_predictions(folder, run_id="r", entry="e", seed=0)


def targets_of(folder) -> np.ndarray:
    targets = read(folder).targets
    assert targets is not None
    return targets


def test_answers_are_bit_equal_to_each_scene_alone(store, tmp_path):
    entries = [entry(tmp_path, "a"), entry(tmp_path, "bb", views=(2, 0))]
    judge(entries, store, ROBUST)
    for judged in entries:
        assert complete(judged, store)
        found = read(judged.folder)
        assert found.positions is not None
        for c, condition in enumerate(ROBUST.conditions):
            for row in (0, 4, 11):
                assert ROBUST.show is not None
                # Seen together with cameras 0 and 2, as the entries are judged together.
                part = part_of(store, [row], views=(0, 2))
                own = [part.views.index(view) for view in judged.spec.views]
                shown = torch.from_numpy(np.array(ROBUST.show(part, condition)[:, own]))
                batch = normalise(shown.expand(4, -1, -1, -1, -1, -1), (0.5,) * 3, (0.5,) * 3)
                with torch.inference_mode():
                    wanted = judged.module(batch)[0].numpy()
                assert np.array_equal(found.scores[c, row], wanted[:4]), condition.id
                assert np.array_equal(found.positions[c, row], wanted[4:]), condition.id


def test_true_places_and_horizons_stand_beside_what_was_said(store, tmp_path):
    judged = entry(tmp_path, "both", names=("forecast", "last-visible"))
    judge([judged], store, protocol(conditions="none"))
    assert complete(judged, store, protocol(conditions="none"))
    first_folder, second_folder = judged.folders
    assert second_folder == judged.folder / "heads" / "last-visible"
    first, second = read(first_folder), read(second_folder)
    assert (first.horizon_frames, second.horizon_frames) == (5, 0)
    assert np.array_equal(targets_of(first_folder), store.positions[:, 20].astype(np.float32))
    assert np.array_equal(targets_of(second_folder), store.positions[:, 15].astype(np.float32))
    assert np.array_equal(first.scores, second.scores)
    assert first.positions is not None
    assert second.positions is not None
    assert not np.array_equal(first.positions, second.positions)


def test_places_that_are_not_known_stay_unknown(store, tmp_path):
    positions = store.positions.copy()
    positions[3, 20] = np.nan
    judged = entry(tmp_path, "a")
    judge([judged], replace(store, positions=positions), protocol(conditions="none"))
    assert complete(judged, store, protocol(conditions="none"))
    assert np.isnan(targets_of(judged.folder)).all(axis=1).tolist() == [
        row == 3 for row in range(12)
    ]


def test_rows_say_which_frames_were_shown(store, tmp_path):
    judge([entry(tmp_path, "a")], store, ROBUST)
    rows = rows_of(table_of(tmp_path / "a")[0])
    told = {r["condition"]: r for r in rows if r["sample_id"] == "traj_00003"}
    assert list(told) == [c.id for c in ROBUST.conditions]
    seen = {
        name: (row["distinct_frames"], row["span_seconds"], row["rate_hz"], row["pad_share"])
        for name, row in told.items()
    }
    assert seen["clean"] == seen["noise-0.1"] == seen["occluder"] == (16, 15 / 16, 16, 0)
    assert seen["prefix-4"] == (4, 3 / 16, 16, 0.75)
    assert seen["spread-4"] == (4, 15 / 16, 16 / 5, 0.75)
    assert seen["stride-4"] == (4, 12 / 16, 4, 0.75)
    assert seen["dropped-0.25"][0] == 12
    assert seen["dropped-0.25"][3] == 0.25
    for name, frames in (("single-frame", 1), ("shuffled-frames", 16)):
        assert seen[name][0] == frames
        assert np.isnan(seen[name][2])
    # The failing camera is drawn among three that nobody else sees: it may be this one or not.
    assert len({row["clip_key"] for row in told.values()}) >= len(told) - 1


def test_a_frame_order_gives_span_and_rate_only_where_they_are_even():
    assert frame_truth(np.array([0, 2, 4, 4]), "k") == (3, 0.25, 8.0, 0.25, "k")
    assert frame_truth(np.array([0, 0, 1, 3]), "k") == (3, 3 / 16, None, 0.25, "k")
    assert frame_truth(np.array([2, 1, 0, 3]), "k") == (4, 3 / 16, None, 0.0, "k")
    assert frame_truth(np.array([3, 3, 3, 3]), "k") == (1, 0.0, None, 0.75, "k")


def test_shards_order_and_company_change_no_byte(store, tmp_path):
    design = protocol(**{**_lists_off(), "noise": [0.1], "dropped": [0.5], "crf": [38]})
    whole = [entry(tmp_path / "whole", "a"), entry(tmp_path / "whole", "bb", views=(1, 2))]
    judge(whole, store, design)
    split = entry(tmp_path / "split", "a")
    for number in (1, 0):
        judge([split], store, design, shard=(number, 2), samples=samples_of(store)[::-1])
    assert hashes(split.folder) == hashes(whole[0].folder)


def _lists_off() -> dict[str, Any]:
    lists = "frames stride noise blur dropped camera distractors views_missing crf"
    return {**{name: [] for name in lists.split()}, "occluder": False, "controls": False}


def test_scenes_that_are_made_when_asked_for_give_the_same_bytes(store, tmp_path):
    stored, made = entry(tmp_path / "stored", "a"), entry(tmp_path / "made", "a")
    judge([stored], store, ROBUST)
    judge([made], replace(store, pictures=None), ROBUST)
    assert hashes(stored.folder) == hashes(made.folder)


def test_a_stop_keeps_finished_parts_and_the_rest_equals_an_uninterrupted_judging(store, tmp_path):
    module, stop = TinyScenes(), StopFlag()
    judged = entry(tmp_path / "stopped", "a", module=module)

    def told(facts: dict[str, Any]) -> None:
        if facts["step"] == 1:
            stop.request()

    with pytest.raises(StopRequested):
        judge([judged], store, ROBUST, stop=stop, report=told)
    assert len(parts_of(judged.folder)) == 1
    assert not complete(judged, store)
    cost = judge([judged], store, ROBUST)
    assert (cost.parts_kept, cost.parts_done) == (1, 2)
    whole = entry(tmp_path / "whole", "a", module=module)
    judge([whole], store, ROBUST)
    assert hashes(judged.folder) == hashes(whole.folder)
    assert complete(judged, store)


_KILLED = """
import sys
from pathlib import Path
from tests.evaluation.test_scene_judging import ROBUST
from tests.evaluation.tiny_scenes import build_store, entry, judge

def told(facts):
    if facts["step"] == 2:
        print("two", flush=True)
        sys.stdin.read()

judge([entry(Path(sys.argv[1]), "a")], build_store(), ROBUST, part_samples=3, report=told)
"""


def test_a_killed_judging_goes_on_to_the_same_bytes(store, tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(tmp_path / "killed")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == "two\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    child.stdin.close()
    killed, whole = entry(tmp_path / "killed", "a"), entry(tmp_path / "whole", "a")
    assert len(parts_of(killed.folder)) == 2
    cost = judge([killed], store, ROBUST, part_samples=3)
    assert (cost.parts_kept, cost.parts_done) == (2, 2)
    judge([whole], store, ROBUST, part_samples=3)
    assert hashes(killed.folder) == hashes(whole.folder)


def test_a_model_that_cannot_take_the_scenes_fails_alone(store, tmp_path):
    good, bad = entry(tmp_path, "good"), entry(tmp_path, "bad")
    bad = replace(bad, spec=replace(bad.spec, frames=8))
    cost = judge([good, bad], store, protocol(conditions="none"))
    assert "takes [1, 8, 3, 32, 32]" in str(cost.failed["bad"])
    assert complete(good, store, protocol(conditions="none"))


def test_scenes_outside_the_ranges_lie_there_and_keep_their_labels(store, tmp_path):
    names = ("radius", "turns", "small-rise", "figure-eight")
    sets = open_ood_scenes(names, SETTINGS, count=10, classes=CLASSES)
    labels = {ood.name: sorted({s.label for s in ood.samples}) for ood in sets}
    assert labels == {"radius": [1, 2], "turns": [1, 2], "small-rise": [2], "figure-eight": [-1]}
    assert all(np.abs(ood.positions).max() <= 1.2 for ood in sets)
    judged = entry(tmp_path, "a", views=(0, 1))
    settings: dict[str, Any] = {"batch_size": 4, "part_samples": 4, "device": torch.device("cpu")}
    cost = judge_elsewhere([judged], sets, **settings)
    assert (cost.samples, cost.parts_done, cost.failed) == (40, 12, {})
    for ood in sets:
        beside = ood_entry(judged, ood)
        assert beside.folder == judged.folder / "ood" / ood.name
        assert complete_scenes(beside, ood.samples, UNCHANGED, part_samples=4, classes=CLASSES)
        found = read(beside.folder)
        assert np.array_equal(targets_of(beside.folder), ood.positions[:, 20].astype(np.float32))
        assert found.labels.tolist() == [s.label for s in ood.samples]


def test_sets_outside_the_ranges_have_the_numbers_they_are_named_for():
    wide, fast, low, eight = open_ood_scenes(
        ("radius", "turns", "small-rise", "figure-eight"), SETTINGS, count=40, classes=CLASSES
    )

    def measured(ood, rises):
        rows = [n for n, s in enumerate(ood.samples) if (s.label == 2) == rises]
        return fit_turns(ood.positions[rows, :16], rises=rises)

    for rises in (False, True):
        radius, turns = measured(wide, rises).radius_N, measured(fast, rises).turns_N
        assert 0.8 - 1e-4 < radius.min() < radius.max() < 1.1 + 1e-4
        assert 1.6 - 1e-4 < turns.min() < turns.max() < 2.4 + 1e-4
    rise = np.abs(measured(low, True).rise_N)
    assert 0.3 - 1e-4 < rise.min() < rise.max() < 0.6 + 1e-4
    # An eight lies in a plane.
    middle = eight.positions - eight.positions.mean(axis=1, keepdims=True)
    assert np.linalg.svd(middle, compute_uv=False)[:, 2].max() < 1e-9
