"""Promises of planning a sample for all entries at once, and of choosing samples."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regatta.config.schema import ProtocolSection
from regatta.data.manifest import Sample
from regatta.data.transforms import resize_frames
from regatta.evaluation.grid import (
    InputShape,
    choose_samples,
    plan_clips,
    plan_task,
    prepare_frames,
    read_task,
)
from regatta.evaluation.protocols import resolve_protocol

GRID = resolve_protocol(ProtocolSection.model_validate({"name": "temporal-grid"}))
CPU = torch.device("cpu")


def sample(number: int = 0, *, frames: int = 60, label: int = 0) -> Sample:
    return Sample(
        sample_id=f"s{number:04d}",
        path="/nowhere",
        label=label,
        label_name=f"class{label}",
        group="g",
        split="test",
        start_frame=0,
        frames=frames,
        fps=25.0,
        width=12,
        height=8,
        duration_seconds=frames / 25,
        content_hash="",
    )


@settings(deadline=None, max_examples=30)
@given(frames=st.integers(1, 300), model_frames=st.sampled_from([8, 16, 32]))
def test_each_condition_points_at_its_own_clip_and_clips_never_repeat(frames, model_frames):
    clips = plan_clips(sample(frames=frames), GRID, model_frames)
    assert len(clips.plans) == len(clips.clip_of_condition) == len(GRID.conditions)
    assert len(set(clips.distinct)) == len(clips.distinct)
    for plan, place in zip(clips.plans, clips.clip_of_condition, strict=True):
        assert clips.distinct[place] == plan.indices


def test_task_of_one_frame_has_one_clip_however_many_conditions():
    task = plan_task(sample(frames=1), GRID, [(8, InputShape(4, "crop"))])
    assert task.clips[8].distinct == [(0,) * 8]
    assert task.union == (0,)


@settings(deadline=None, max_examples=20)
@given(frames=st.integers(1, 300))
def test_union_holds_what_the_entries_need_and_nothing_else(frames):
    inputs = [(8, InputShape(4, "crop")), (16, InputShape(4, "crop")), (8, InputShape(6, "crop"))]
    task = plan_task(sample(frames=frames), GRID, inputs)
    needed = {
        index
        for model_frames in (8, 16)
        for condition in GRID.conditions
        for index in GRID.plan(frames, 25.0, condition, model_frames).indices
    }
    assert set(task.union) == needed
    assert list(task.union) == sorted(needed)
    assert task.shapes == (InputShape(4, "crop"), InputShape(6, "crop"))
    assert task.source_bytes == len(needed) * 12 * 8 * 3


def test_rows_pick_the_planned_frames_out_of_the_resized_union():
    task = plan_task(sample(), GRID, [(8, InputShape(4, "crop")), (16, InputShape(8, "squash"))])
    video = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (60, 8, 12, 3), dtype=np.uint8)
    )
    asked: list[list[int]] = []

    def read(_: Sample, indices) -> np.ndarray:
        asked.append(list(indices))
        return video[list(indices)].numpy()

    frames = read_task(task, read, device=CPU)
    assert asked == [list(task.union)]
    assert frames.source is None
    for model_frames, shape in [(8, InputShape(4, "crop")), (16, InputShape(8, "squash"))]:
        whole = resize_frames(video, size=shape.image_size, resize=shape.resize)
        picked = frames.prepared[shape][task.rows(model_frames)]
        for clip, indices in zip(picked, task.clips[model_frames].distinct, strict=True):
            assert torch.equal(clip, whole[list(indices)])


def test_frames_are_prepared_only_once():
    task = plan_task(sample(), GRID, [(8, InputShape(4, "crop"))])
    frames = read_task(task, lambda _, i: np.zeros((len(i), 8, 12, 3), np.uint8), device=CPU)
    before = frames.prepared[InputShape(4, "crop")]
    prepare_frames(frames, CPU)
    assert frames.prepared[InputShape(4, "crop")] is before


CLASS_SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=6)


def many(class_sizes: list[int]) -> list[Sample]:
    labels = [label for label, size in enumerate(class_sizes) for _ in range(size)]
    return [sample(number, label=label) for number, label in enumerate(labels)]


@settings(deadline=None)
@given(class_sizes=CLASS_SIZES, share=st.floats(0, 1), seed=st.integers(0, 99))
def test_choice_has_the_asked_number_in_id_order_with_every_class_if_possible(
    class_sizes, share, seed
):
    samples = many(class_sizes)
    count = max(1, round(share * len(samples)))
    chosen = [s.sample_id for s in choose_samples(samples, count, seed)]
    assert len(chosen) == count
    assert chosen == sorted(set(chosen))
    if count >= len(class_sizes):
        labels = {s.label for s in samples if s.sample_id in chosen}
        assert labels == set(range(len(class_sizes)))


def test_choice_of_equal_classes_is_equal():
    chosen = choose_samples(many([30, 30, 30]), 12, 0)
    assert Counter(s.label for s in chosen) == {0: 4, 1: 4, 2: 4}


def test_choice_depends_on_the_seed_and_not_on_the_order_of_the_list():
    samples = many([20, 20])
    chosen = choose_samples(samples, 10, 0)
    assert choose_samples(samples[::-1], 10, 0) == chosen
    assert choose_samples(samples, 10, 1) != chosen


@pytest.mark.parametrize("count", [None, 5, 99])
def test_asking_for_all_gives_all_in_id_order(count):
    samples = many([3, 2])
    assert choose_samples(samples[::-1], count, 0) == samples
