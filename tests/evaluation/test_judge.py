"""Promises of judging: bit-equal to the naive loop, resumable, sharded, bounded, cost told."""

from __future__ import annotations

import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from regatta.config.schema import EntrySection, ProtocolSection
from regatta.core.errors import DecodeError, StopRequested
from regatta.core.files import read_json
from regatta.core.signals import StopFlag
from regatta.data.decode import probe, read_frames
from regatta.data.manifest import Sample
from regatta.data.transforms import normalise, resize_frames
from regatta.data.video_files import write_video
from regatta.evaluation.judge import JudgeCost, judge_parts
from regatta.evaluation.part_files import (
    PartCost,
    finalize_predictions,
    part_is_whole,
    record_cost,
    split_parts,
    total_cost,
    write_ceiling,
)
from regatta.evaluation.predict import JudgedEntry
from regatta.evaluation.protocols import Protocol, resolve_protocol
from regatta.models.spec import ModelSpec, resolve_model
from regatta.records.predictions import file_hash, read_part, read_run_predictions

CPU = torch.device("cpu")
CLASSES = ["left", "right", "still"]


def protocol(**options: Any) -> Protocol:
    section = {"name": "temporal-grid", "options": options}
    return resolve_protocol(ProtocolSection.model_validate(section))


GRID = protocol(coverage=[25, 100], stride=[1, 4, 16])


TEMPLATE = Sample(
    sample_id="",
    path="",
    label=0,
    label_name=CLASSES[0],
    group="g",
    split="test",
    start_frame=0,
    frames=1,
    fps=20.0,
    width=32,
    height=24,
    duration_seconds=1.0,
    content_hash="",
)


def make_sample(folder: Path, number: int) -> Sample:
    """A textured clip of 20 to 28 frames that moves by `number` pixels per frame."""
    frames = 20 + 4 * (number % 3)
    texture = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    images = np.stack([np.roll(texture, number * k, axis=1) for k in range(frames)])
    suffix, codec = ("avi", "mpeg4") if number % 2 else ("mp4", "libx264")
    path = write_video(folder / f"clip{number:02d}.{suffix}", images, fps=20, codec=codec)
    return replace(
        TEMPLATE,
        sample_id=path.name,
        path=str(path),
        label=number % 3,
        label_name=CLASSES[number % 3],
        group=f"g{number // 2}",
        frames=frames,
        content_hash=sha256(path.read_bytes()).hexdigest(),
    )


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("videos")
    return [make_sample(folder, number) for number in range(7)]


class TinyConv(nn.Module):
    """A convolution over space and time, a mean and a linear head."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 6, 3, padding=1)
        self.head = nn.Linear(6, classes)
        self.clips = 0

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        self.clips += len(video)
        return self.head(self.conv(video.transpose(1, 2)).relu().mean((2, 3, 4)))


def entry(
    root: Path,
    run_id: str,
    *,
    frames: int = 4,
    image_size: int = 12,
    module: nn.Module | None = None,
    **changes: Any,
) -> JudgedEntry:
    torch.manual_seed(len(run_id))
    spec = ModelSpec(
        name="tiny",
        frames=frames,
        image_size=image_size,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
        resize="crop",
        default_checkpoint=None,
        build=TinyConv,
        head_prefixes=("head.",),
        config={},
    )
    return JudgedEntry(run_id, (module or TinyConv()).eval(), spec, root / run_id, **changes)


def judge(
    entries: list[JudgedEntry], samples: list[Sample], design: Protocol = GRID, **changes: Any
) -> JudgeCost:
    settings: dict[str, Any] = {"batch_size": 4, "part_samples": 3, "device": CPU}
    return judge_parts(entries, samples, design, **{**settings, **changes})


def naive_scores(
    judged: JudgedEntry, samples: list[Sample], design: Protocol, batch_size: int
) -> dict[tuple[str, str], np.ndarray]:
    """Open, decode, resize and run every clip of every condition alone."""
    scores = {}
    spec = judged.spec
    for sample in samples:
        for condition in design.conditions:
            plan = design.plan(
                sample.frames, sample.fps, condition, spec.frames, sample_id=sample.sample_id
            )
            images = torch.from_numpy(read_frames(sample.path, plan.indices).images)
            clip = resize_frames(images, size=spec.image_size, resize=spec.resize)
            batch = normalise(clip.expand(batch_size, *clip.shape), spec.mean, spec.std)
            with torch.inference_mode():
                scores[sample.sample_id, condition.id] = judged.module(batch)[0].numpy()
    return scores


def parts_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def table_of(folder: Path) -> tuple[pd.DataFrame, np.ndarray]:
    tables, scores = zip(*(read_part(path) for path in parts_of(folder)), strict=True)
    return pd.concat(tables, ignore_index=True), np.concatenate(scores)


def rows_of(table: pd.DataFrame) -> list[dict[Any, Any]]:
    return table.to_dict("records")


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: file_hash(path) for path in parts_of(folder)}


def finalize(judged: JudgedEntry, samples: list[Sample], design: Protocol = GRID) -> bool:
    return finalize_predictions(
        judged.folder,
        samples=samples,
        conditions=design.conditions,
        part_samples=3,
        classes=CLASSES,
        fingerprint=judged.fingerprint,
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


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_shards_give_the_parts_of_one_process_and_every_sample_once(samples, tmp_path, shards):
    whole = entry(tmp_path / "whole", "a")
    judge([whole], samples)
    sharded = entry(tmp_path / "sharded", "a")
    for index in range(shards):
        assert not finalize(sharded, samples)
        judge([sharded], samples, shard=(index, shards))
    assert finalize(sharded, samples)
    assert hashes(sharded.folder) == hashes(whole.folder)
    found = read_run_predictions(sharded.folder, run_id="a", entry="a", seed=0)
    assert found.sample_ids.tolist() == sorted(sample.sample_id for sample in samples)
    assert found.scores.shape == (6, 7, 3)
    assert found.cost["samples"] == 7
    assert found.cost["parts_measured"] == 3


def test_shards_that_start_together_over_stale_parts_lose_nothing(samples, tmp_path):
    wanted = entry(tmp_path / "whole", "a", fingerprint={"weights": 0})
    judge([wanted], samples)
    for weights in range(1, 5):
        # Made here, because threads would draw their weights from one generator at a time.
        shards = [entry(tmp_path, "a", fingerprint={"weights": weights}) for _ in range(3)]
        with ThreadPoolExecutor(3) as pool:
            # The parts of the round before are stale for all three at once.
            done = [
                pool.submit(judge, [judged], samples, shard=(index, 3))
                for index, judged in enumerate(shards)
            ]
            assert sum(future.result().parts_done for future in done) == 3
        assert finalize(shards[0], samples)
        assert hashes(shards[0].folder) == hashes(wanted.folder)


def test_a_deleted_part_alone_is_judged_again(samples, tmp_path):
    modules = [TinyConv(), TinyConv()]
    first, second = (
        entry(tmp_path, name, module=module)
        for name, module in zip(("a", "bb"), modules, strict=True)
    )
    judge([first, second], samples)
    before, stamps = hashes(first.folder), [p.stat().st_mtime_ns for p in parts_of(second.folder)]
    kept = parts_of(first.folder)[2].stat().st_mtime_ns
    parts_of(first.folder)[1].unlink()
    counts = [module.clips for module in modules]
    cost = judge([first, second], samples)
    assert (cost.parts_done, cost.parts_kept, cost.samples) == (1, 2, 3)
    assert hashes(first.folder) == before
    assert parts_of(first.folder)[2].stat().st_mtime_ns == kept
    # The entry that lacked nothing was not run.
    assert modules[0].clips > counts[0]
    assert modules[1].clips == counts[1]
    assert [p.stat().st_mtime_ns for p in parts_of(second.folder)] == stamps


def test_a_damaged_part_is_judged_again(samples, tmp_path):
    judged = entry(tmp_path, "a")
    judge([judged], samples)
    before = hashes(judged.folder)
    broken = parts_of(judged.folder)[0]
    broken.write_bytes(broken.read_bytes()[:-40])
    assert not finalize(judged, samples)
    assert judge([judged], samples).parts_done == 1
    assert hashes(judged.folder) == before
    assert finalize(judged, samples)


def test_judging_twice_does_nothing_the_second_time(samples, tmp_path):
    module = TinyConv()
    judged = entry(tmp_path, "a", module=module)
    judge([judged], samples)
    assert finalize(judged, samples)
    marker = read_json(judged.folder / "complete.json")
    clips = module.clips
    cost = judge([judged], samples)
    assert finalize(judged, samples)
    assert (cost.parts_done, cost.parts_kept, module.clips) == (0, 3, clips)
    assert read_json(judged.folder / "complete.json") == marker


@pytest.mark.parametrize("change", ["samples", "protocol", "weights"])
def test_parts_of_another_judging_never_mix_in(samples, tmp_path, change):
    before = entry(tmp_path, "a", fingerprint={"weights": 1})
    judge([before], samples)
    assert finalize(before, samples)
    (before.folder / "ceiling.json").write_text("{}")
    chosen, design, weights = samples, GRID, 1
    if change == "samples":
        chosen = samples[:4]
    elif change == "protocol":
        design = protocol(coverage=[25, 100], stride=[1, 4])
    else:
        weights = 2
    again = entry(tmp_path, "a", fingerprint={"weights": weights})
    assert not finalize(again, chosen, design)
    cost = judge([again], chosen, design)
    assert cost.parts_kept == 0
    assert not (again.folder / "ceiling.json").exists()
    assert finalize(again, chosen, design)
    found = read_run_predictions(again.folder, run_id="a", entry="a", seed=0)
    assert len(found.sample_ids) == len(chosen)
    assert [c.id for c in found.conditions] == [c.id for c in design.conditions]
    assert found.fingerprint == {"weights": weights}


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


def test_cost_is_measured_apart_and_shared_seconds_are_divided(samples, tmp_path):
    entries = [entry(tmp_path, "a"), entry(tmp_path, "bb", frames=8)]
    cost = judge(entries, samples)
    assert cost.decode_seconds > 0
    assert cost.preprocess_seconds > 0
    totals = [total_cost(judged.folder) for judged in entries]
    for judged, total in zip(entries, totals, strict=True):
        assert total["samples"] == 7
        assert total["clips"] == 7 * 6
        assert total["shared_by"] == 2
        assert total["forward_seconds"] == pytest.approx(cost.forward_seconds[judged.run_id])
    for name in ("decode_seconds", "preprocess_seconds"):
        assert sum(total[name] for total in totals) == pytest.approx(getattr(cost, name))
    assert sum(total["wall_seconds"] for total in totals) <= cost.wall_seconds
    assert sum(total["distinct_clips"] for total in totals) == cost.distinct_clips


def test_a_part_judged_again_is_charged_once(tmp_path):
    cost = PartCost(3, 18, 15, 1.0, 2.0, 3.0, 4.0, 1)
    record_cost(tmp_path, (0, 2), 0, cost)
    record_cost(tmp_path, (0, 2), 0, replace(cost, forward_seconds=5.0))
    record_cost(tmp_path, (1, 2), 1, cost)
    total = total_cost(tmp_path)
    assert total["parts_measured"] == 2
    assert total["forward_seconds"] == 8.0
    assert total["samples"] == 6


def test_a_part_counts_only_with_exactly_its_rows(samples, tmp_path):
    judged = entry(tmp_path, "a")
    judge([judged], samples)
    parts = split_parts(samples, 3)
    assert part_is_whole(judged.folder, 0, parts[0], GRID.conditions)
    assert not part_is_whole(judged.folder, 0, parts[1], GRID.conditions)
    assert not part_is_whole(judged.folder, 0, parts[0], GRID.conditions[:-1])
    assert not part_is_whole(judged.folder, 0, parts[0][:-1], GRID.conditions)
    assert not part_is_whole(judged.folder, 0, parts[0] + parts[1][:1], GRID.conditions)
    assert not part_is_whole(judged.folder, 7, parts[0], GRID.conditions)


def test_ceiling_is_the_mean_chance_of_the_ideal_reader(samples, tmp_path):
    def oracle(sample: Sample, indices: Any, *, bonus: float) -> float:
        return bonus + (len(set(indices)) == 4 and sample.label == 0)

    ceiling = write_ceiling(
        tmp_path, samples, GRID, model_frames=4, oracle=oracle, options={"bonus": 0.25}
    )
    # Of 20 to 28 frames, 25 % at stride 16 leave one frame and 100 % at stride 1 all four.
    assert ceiling["c25s16"] == 0.25
    assert ceiling["c100s1"] == pytest.approx(0.25 + 3 / 7)
    assert read_json(tmp_path / "ceiling.json") == ceiling
