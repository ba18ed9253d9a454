"""Promises of judging: bit-equal to the naive loop, resumable, sharded, bounded, cost told."""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from regatta.config.schema import EntrySection
from regatta.core.errors import DecodeError, StopRequested
from regatta.core.signals import StopFlag
from regatta.data.decode import probe, read_frames
from regatta.data.transforms import normalise, resize_frames
from regatta.evaluation.predict import JudgedEntry
from regatta.models.spec import resolve_model
from tests.evaluation.tiny_judging import (
    GRID,
    TEMPLATE,
    TinyConv,
    entry,
    finalize,
    hashes,
    judge,
    make_sample,
    naive_scores,
    parts_of,
    protocol,
    rows_of,
    table_of,
)


@pytest.mark.parametrize("decode_threads", [0, 1, 3])
def test_scores_are_bit_equal_to_the_naive_loop(samples, tmp_path, decode_threads):
    entries = [
        entry(tmp_path, "a"),
        entry(tmp_path, "bb", frames=8),
        entry(tmp_path, "ccc", image_size=16),
    ]
    judge(entries, samples, decode_threads=decode_threads)
    for judged in entries:
        wanted = naive_scores(judged, samples, GRID, batch_size=4)
        table, scores = table_of(judged.folder)
        assert len(table) == len(wanted) == 7 * 6
        for row, found in zip(rows_of(table), scores, strict=True):
            assert np.array_equal(found, wanted[row["sample_id"], row["condition"]])


@pytest.mark.parametrize("model", ["timesformer", "videomae", "vivit"])
def test_real_models_are_bit_equal_to_the_naive_loop(samples, tmp_path, model):
    section = EntrySection.model_validate({"model": model, "size": "tiny", "checkpoint": "none"})
    spec = resolve_model(section, 3, seed=0)
    judged = JudgedEntry(model, spec.build(3).eval(), spec, tmp_path / model)
    design = protocol(coverage=[50, 100], stride=[2, 16])
    judge([judged], samples[:3], design, batch_size=3)
    wanted = naive_scores(judged, samples[:3], design, batch_size=3)
    table, scores = table_of(judged.folder)
    for row, found in zip(rows_of(table), scores, strict=True):
        assert np.array_equal(found, wanted[row["sample_id"], row["condition"]])


def test_published_clips_are_bit_equal_to_the_naive_loop(shared_data, tmp_path):
    samples = []
    for name in ("v_ucf101_sample.avi", "video_90.mov", "h265_video.mp4"):
        path = shared_data / "video" / name
        facts = probe(path)
        samples.append(
            replace(
                TEMPLATE,
                sample_id=name,
                path=str(path),
                frames=facts.counted_frames,
                fps=facts.fps,
                width=facts.width,
                height=facts.height,
                content_hash=facts.content_hash,
            )
        )
    judged = entry(tmp_path, "a", image_size=32)
    design = protocol(coverage=[10, 100], stride=[1, 16])
    judge([judged], samples, design)
    wanted = naive_scores(judged, samples, design, batch_size=4)
    table, scores = table_of(judged.folder)
    assert len(table) == 3 * 4
    for row, found in zip(rows_of(table), scores, strict=True):
        assert np.array_equal(found, wanted[row["sample_id"], row["condition"]])


def test_rows_carry_the_truth_about_each_clip(samples, tmp_path):
    judged = entry(tmp_path, "a")
    judge([judged], samples)
    table, _ = table_of(judged.folder)
    known = {sample.sample_id: sample for sample in samples}
    for row in rows_of(table):
        sample = known[row["sample_id"]]
        condition = next(c for c in GRID.conditions if c.id == row["condition"])
        plan = GRID.plan(sample.frames, sample.fps, condition, 4, sample_id=sample.sample_id)
        assert (row["label"], row["group"]) == (sample.label, sample.group)
        assert row["distinct_frames"] == plan.distinct_frames
        assert row["span_seconds"] == plan.span_seconds
        assert row["pad_share"] == plan.pad_share
        assert row["clip_key"] == plan.unique_key
        # A still frame has no rate, which the table holds as missing.
        assert row["rate_hz"] == plan.rate_hz or (plan.rate_hz is None and np.isnan(row["rate_hz"]))


def test_identical_clips_run_once_and_are_reported_as_identical(samples, tmp_path):
    module = TinyConv()
    judged = entry(tmp_path, "a", module=module)
    design = protocol(coverage=[5, 10], stride=[1, 2, 4])
    # 5 % of 20 frames is one frame: its three strides are one clip. 10 % are two frames: stride 1
    # shows both, strides 2 and 4 the first one alone, which is that clip again.
    still = [samples[0], samples[3]]
    cost = judge([judged], still, design, batch_size=2, part_samples=2)
    table, scores = table_of(judged.folder)
    assert cost.distinct_clips == module.clips == 2 * 2
    assert len(table) == 2 * 6
    for _, rows in table.groupby(["sample_id", "clip_key"]):
        assert (scores[rows.index] == scores[rows.index[0]]).all()
    assert table.groupby("sample_id")["clip_key"].nunique().tolist() == [2, 2]


def test_each_file_is_opened_once_for_all_entries_and_conditions(samples, tmp_path, monkeypatch):
    opened: list[str] = []

    def count(path: str, indices: Any, **settings: Any) -> Any:
        opened.append(path)
        return read_frames(path, indices, **settings)

    monkeypatch.setattr("regatta.data.loader.read_frames", count)
    entries = [entry(tmp_path, "a"), entry(tmp_path, "bb", frames=8, image_size=16)]
    cost = judge(entries, samples)
    assert sorted(opened) == sorted(sample.path for sample in samples)
    assert cost.samples == 7
    assert cost.frames_decoded <= sum(sample.frames for sample in samples)


def test_entries_judged_together_or_alone_get_the_same_parts(samples, tmp_path):
    together = [entry(tmp_path / "t", "a"), entry(tmp_path / "t", "bb", frames=8)]
    judge(together, samples)
    for run_id, frames in (("a", 4), ("bb", 8)):
        judged = entry(tmp_path / "alone", run_id, frames=frames)
        judge([judged], samples)
        assert hashes(judged.folder) == hashes(tmp_path / "t" / run_id)


def test_a_stop_keeps_finished_parts_and_the_rest_follows(samples, tmp_path):
    stop = StopFlag()
    steps: list[int] = []

    def stop_after_two(told: dict[str, Any]) -> None:
        steps.append(told["step"])
        if told["step"] == 2:
            stop.request()

    judged = entry(tmp_path, "a")
    with pytest.raises(StopRequested, match="judging"):
        judge([judged], samples, stop=stop, report=stop_after_two)
    assert len(parts_of(judged.folder)) == 2
    assert not [t for t in threading.enumerate() if t.name.startswith("regatta-read")]
    judge([judged], samples)
    whole = entry(tmp_path / "whole", "a")
    judge([whole], samples)
    assert hashes(judged.folder) == hashes(whole.folder)


def test_progress_counts_parts_to_the_end(samples, tmp_path):
    told: list[dict[str, Any]] = []
    judge([entry(tmp_path, "a")], samples, report=told.append)
    steps = [report["step"] for report in told]
    assert steps == sorted(steps)
    assert told[-1]["step"] == told[-1]["total_steps"] == 3
    assert told[-1]["samples"] == 7
    assert told[-1]["seconds_left"] == 0
    assert told[-1]["samples_per_second"] > 0


class Poisoned(TinyConv):
    """Gives NaN for one clip, told by its first pixel."""

    def __init__(self, pixel: float) -> None:
        super().__init__()
        self.pixel = pixel

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        scores = super().forward(video)
        scores[video[:, 0, 0, 0, 0] == self.pixel] = float("nan")
        return scores


def test_scores_that_are_not_finite_fail_that_run_alone_and_name_the_clip(samples, tmp_path):
    victim = sorted(samples, key=lambda sample: sample.sample_id)[4]
    sound = entry(tmp_path, "a")
    clip = resize_frames(
        torch.from_numpy(read_frames(victim.path, [0]).images), size=12, resize="crop"
    )
    pixel = float(normalise(clip, sound.spec.mean, sound.spec.std)[0, 0, 0, 0])
    broken = entry(tmp_path, "broken", module=Poisoned(pixel))
    cost = judge([broken, sound], samples)
    assert list(cost.failed) == ["broken"]
    error = cost.failed["broken"]
    assert "broken" in error.what
    assert error.where == f"sample {victim.sample_id}, condition c25s1"
    assert len(parts_of(broken.folder)) == 1
    assert not finalize(broken, samples)
    assert finalize(sound, samples)


class Raises(TinyConv):
    def forward(self, video: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(f"no kernel for {tuple(video.shape)}")


def test_a_model_that_raises_harms_no_other_run(samples, tmp_path):
    broken, sound = entry(tmp_path, "broken", module=Raises()), entry(tmp_path, "a", frames=8)
    cost = judge([broken, sound], samples)
    assert "no kernel" in str(cost.failed["broken"])
    alone = entry(tmp_path / "alone", "a", frames=8)
    judge([alone], samples)
    assert hashes(sound.folder) == hashes(alone.folder)


def test_when_every_run_fails_the_rest_is_not_decoded(samples, tmp_path):
    cost = judge([entry(tmp_path, "broken", module=Raises())], samples)
    assert cost.samples == 3
    assert not parts_of(tmp_path / "broken")


def test_a_file_that_is_gone_stops_judging_with_its_path(samples, tmp_path):
    own = [make_sample(tmp_path, number) for number in range(4)]
    os.unlink(own[3].path)
    judged = entry(tmp_path, "a")
    with pytest.raises(DecodeError) as caught:
        judge([judged], own)
    assert caught.value.where == own[3].path
    assert len(parts_of(judged.folder)) == 1


def test_decoded_pictures_live_only_in_the_reading_threads(samples, tmp_path, monkeypatch):
    living: list[int] = []
    counts: list[int] = []

    def track(path: str, indices: Any, **settings: Any) -> Any:
        frames = read_frames(path, indices, **settings)
        living.append(1)
        counts.append(len(living))
        weakref.finalize(frames.images, living.pop)
        return frames

    monkeypatch.setattr("regatta.data.loader.read_frames", track)
    many = [replace(s, sample_id=f"{k}-{s.sample_id}") for k in range(6) for s in samples]
    judge([entry(tmp_path, "a")], many, part_samples=100, decode_threads=2)
    assert len(counts) == 42
    # One in each of two threads, and one being handed over.
    assert max(counts) <= 3
    assert not living
