"""Promises of the files that judging leaves: shards, resume, cost and the mark of completion."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from regatta.core.files import read_json
from regatta.data.manifest import Sample
from regatta.evaluation.part_files import (
    PartCost,
    part_is_whole,
    record_cost,
    split_parts,
    total_cost,
    write_ceiling,
)
from regatta.records.predictions import read_run_predictions
from tests.evaluation.tiny_judging import (
    GRID,
    TinyConv,
    entry,
    finalize,
    hashes,
    judge,
    parts_of,
    protocol,
)


@pytest.mark.fault(20)
@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_shards_give_the_parts_of_one_process_and_every_sample_once(samples, tmp_path, shards):
    whole = entry(tmp_path / "whole", "a")
    judge([whole], samples)
    sharded = entry(tmp_path / "sharded", "a")
    for index in range(shards):
        # There are three parts: with more shards the later ones have nothing to do.
        assert finalize(sharded, samples) == (index >= 3)
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


@pytest.mark.fault(28)
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
    def oracle(sample: Sample, shown: Any, *, bonus: float) -> float:
        assert all(len(picture) == 1 for picture in shown)
        return bonus + (len(shown) == 4 and sample.label == 0)

    ceiling = write_ceiling(
        tmp_path, samples, GRID, model_frames=4, oracle=oracle, options={"bonus": 0.25}
    )
    # Of 20 to 28 frames, 25 % at stride 16 leave one frame and 100 % at stride 1 all four.
    assert ceiling["c25s16"] == 0.25
    assert ceiling["c100s1"] == pytest.approx(0.25 + 3 / 7)
    assert read_json(tmp_path / "ceiling.json") == ceiling


def test_the_ideal_reader_is_given_every_picture_of_all_views_once(samples, tmp_path):
    asked: list[list[tuple[int, ...]]] = []

    def oracle(_: Sample, shown: Any) -> float:
        asked.append(list(shown))
        return 1.0

    design = protocol("multi-view", views=["1x1", "2x3"], stride=1)
    write_ceiling(tmp_path, samples[:1], design, model_frames=4, oracle=oracle, options={})
    # 20 frames: the one window of 4 in the middle, then the first and the last.
    assert asked == [
        [(8,), (9,), (10,), (11,)],
        [(0,), (1,), (2,), (3,), (16,), (17,), (18,), (19,)],
    ]


def test_conditions_without_a_ceiling_are_absent(samples, tmp_path):
    design = protocol("controls")
    ceiling = write_ceiling(
        tmp_path, samples, design, model_frames=4, oracle=lambda *_: 1.0, options={}
    )
    assert list(ceiling) == ["full", "one-frame", "static"]


DAMAGED = ["", "{", "[]", "null", '{"parts": 3}', '{"parts": {"0": {"samples": "many"}}}']


@pytest.mark.fault(28)
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_record_of_judging_costs_a_second_judging_and_nothing_else(
    samples, tmp_path, damage
):
    judged = entry(tmp_path, "a")
    judge([judged], samples)
    wanted = hashes(judged.folder)
    (judged.folder / "judging.json").write_text(damage)
    assert not finalize(judged, samples)
    judge([judged], samples)
    assert finalize(judged, samples)
    assert hashes(judged.folder) == wanted


@pytest.mark.fault(28)
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_record_of_cost_is_counted_out(samples, tmp_path, damage):
    judged = entry(tmp_path, "a")
    judge([judged], samples)
    (judged.folder / "cost-0-of-1.json").write_text(damage)
    assert finalize(judged, samples)
    found = read_run_predictions(judged.folder, run_id="a", entry="a", seed=0)
    assert found.cost["parts_measured"] == 0
