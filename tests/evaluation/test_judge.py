"""Promises of judging: bit-equal to the naive loop, resumable, sharded, bounded, cost told."""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regatta.config.schema import EntrySection
from regatta.core.errors import DecodeError, StopRequested
from regatta.core.signals import StopFlag
from regatta.data.decode import probe, read_chunks, read_frames
from regatta.data.manifest import Sample
from regatta.data.transforms import normalise, resize_frames
from regatta.evaluation.predict import JudgedEntry
from regatta.models.spec import resolve_model
from tests.evaluation.tiny_judging import (
    GRID,
    TEMPLATE,
    TinyConv,
    assert_bit_equal,
    entry,
    finalize,
    hashes,
    judge,
    make_sample,
    parts_of,
    protocol,
    rows_of,
    table_of,
)
from tests.torchcodec_here import needs_torchcodec


@pytest.mark.parametrize("decode_threads", [0, 1, 3])
def test_scores_are_bit_equal_to_the_naive_loop(samples, tmp_path, decode_threads):
    entries = [
        entry(tmp_path, "a"),
        entry(tmp_path, "bb", frames=8),
        entry(tmp_path, "ccc", image_size=16),
    ]
    judge(entries, samples, decode_threads=decode_threads)
    for judged in entries:
        assert_bit_equal(judged, samples, GRID)


@pytest.mark.parametrize("model", ["timesformer", "videomae", "vivit"])
def test_real_models_are_bit_equal_to_the_naive_loop(samples, tmp_path, model):
    section = EntrySection.model_validate({"model": model, "size": "tiny", "checkpoint": "none"})
    spec = resolve_model(section, 3, seed=0)
    judged = JudgedEntry(model, spec.build(3).eval(), spec, tmp_path / model)
    design = protocol(coverage=[50, 100], stride=[2, 16])
    judge([judged], samples[:3], design, batch_size=3)
    assert_bit_equal(judged, samples[:3], design, batch_size=3)


def published_sample(path: Path) -> Sample:
    facts = probe(path)
    return replace(
        TEMPLATE,
        sample_id=path.name,
        path=str(path),
        frames=facts.counted_frames,
        fps=facts.fps,
        width=facts.width,
        height=facts.height,
        content_hash=facts.content_hash,
    )


def test_published_clips_are_bit_equal_to_the_naive_loop(shared_data, tmp_path):
    names = ("v_ucf101_sample.avi", "video_90.mov", "h265_video.mp4")
    samples = [published_sample(shared_data / "video" / name) for name in names]
    judged = entry(tmp_path, "a", image_size=32)
    design = protocol(coverage=[10, 100], stride=[1, 16])
    judge([judged], samples, design)
    assert_bit_equal(judged, samples, design)


@pytest.mark.parametrize(
    "name",
    [
        "arm_wrestling.mp4",
        "av1_video.mkv",
        "flipping_a_pancake.mkv",
        "h265_video.mp4",
        "unordered.mov",
        "video_90.mov",
        "video_180.mov",
    ],
)
def test_both_decoders_give_equal_bits(shared_data, tmp_path, name):
    needs_torchcodec()
    samples = [published_sample(shared_data / "video" / name)]
    design = protocol(coverage=[10, 100], stride=[1, 16])
    for decoder in ("pyav", "torchcodec"):
        judge([entry(tmp_path / decoder, "a")], samples, design, decoder=decoder)
    assert hashes(tmp_path / "pyav" / "a") == hashes(tmp_path / "torchcodec" / "a")


@pytest.mark.parametrize("name", ["v_ucf101_sample.avi", "h264_10bits.mp4"])
def test_a_file_that_torchcodec_would_get_wrong_stops_judging_with_the_cure(
    shared_data, tmp_path, name
):
    needs_torchcodec()
    samples = [published_sample(shared_data / "video" / name)]
    with pytest.raises(DecodeError, match="torchcodec") as caught:
        judge([entry(tmp_path, "a")], samples, decoder="torchcodec")
    assert "data.decoder: pyav" in str(caught.value.hint)


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
        return read_chunks(path, indices, **settings)

    monkeypatch.setattr("regatta.evaluation.judge.read_chunks", count)
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
    assert not [t for t in threading.enumerate() if t.name.startswith("regatta-")]
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
    """A few frames at a time, whatever the length of a video and the number of videos."""
    frame_bytes = 24 * 32 * 3
    monkeypatch.setattr("regatta.evaluation.grid.CHUNK_BYTES", 4 * frame_bytes)
    living: list[int] = []
    peaks: list[int] = []

    def track(path: str, indices: Any, **settings: Any) -> Any:
        for images in read_chunks(path, indices, **settings):
            living.append(len(images))
            peaks.append(sum(living))
            weakref.finalize(images, living.remove, len(images))
            yield images

    monkeypatch.setattr("regatta.evaluation.judge.read_chunks", track)
    many = [replace(s, sample_id=f"{k}-{s.sample_id}") for k in range(6) for s in samples]
    judge([entry(tmp_path, "a")], many, part_samples=100, decode_threads=2)
    assert len(peaks) > 2 * 42
    # In each of two threads the piece in hand, and the one before it until it is let go.
    assert max(peaks) <= 4 * 4
    assert not living


def test_torch_threads_are_as_before_after_judging(samples, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        judge([entry(tmp_path, "a")], samples[:3])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_batches_side_by_side_give_the_bits_of_one_thread(samples, tmp_path):
    before = torch.get_num_threads()
    entries = {n: [entry(tmp_path / str(n), "a"), entry(tmp_path / str(n), "bb")] for n in (1, 3)}
    for threads, pair in entries.items():
        torch.set_num_threads(threads)
        try:
            judge(pair, samples, batch_size=2)
        finally:
            torch.set_num_threads(before)
    for alone, together in zip(entries[1], entries[3], strict=True):
        assert hashes(alone.folder) == hashes(together.folder)


def test_pictures_of_another_size_than_the_manifest_says_are_refused(samples, tmp_path):
    with pytest.raises(DecodeError, match="are 32x24, but the manifest says 48x24") as caught:
        judge([entry(tmp_path, "a")], [replace(samples[0], width=48)])
    assert caught.value.where == samples[0].path
