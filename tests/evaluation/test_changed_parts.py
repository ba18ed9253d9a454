"""Predictions that were damaged after judging: found, made again to the same bytes, and nothing
else; entries that were judged on different samples are not compared."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from regatta.analysis.same_samples import check_same_samples
from regatta.core.errors import RecordError
from regatta.records.changed_parts import withdraw_changed
from regatta.records.predictions import read_run_predictions
from tests.evaluation.tiny_judging import entry, finalize, hashes, judge, parts_of


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def of_another(path: Path) -> None:
    path.write_bytes(path.with_name("part-00002.parquet").read_bytes())


@pytest.mark.fault(28)
@pytest.mark.parametrize("damage", [flip_a_bit, cut, empty, of_another, Path.unlink])
def test_a_part_damaged_after_judging_is_refused_then_made_again_alone(samples, tmp_path, damage):
    judged = entry(tmp_path, "a")
    judge([judged], samples)
    assert finalize(judged, samples)
    before = hashes(judged.folder)
    assert withdraw_changed(judged.folder) == []
    broken = parts_of(judged.folder)[1]
    damage(broken)
    assert hashes(judged.folder) != before
    with pytest.raises(RecordError, match="missing or was changed") as error:
        read_run_predictions(judged.folder, run_id="a", entry="a", seed=0)
    assert error.value.where == str(broken)
    assert withdraw_changed(judged.folder) == [broken]
    assert not (judged.folder / "complete.json").exists()
    cost = judge([judged], samples)
    assert (cost.parts_done, cost.parts_kept) == (1, 2)
    assert finalize(judged, samples)
    assert hashes(judged.folder) == before
    assert withdraw_changed(judged.folder) == []


@pytest.mark.fault(28)
def test_parts_that_were_only_copied_or_touched_stay(samples, tmp_path):
    judged = entry(tmp_path, "a")
    judge([judged], samples)
    assert finalize(judged, samples)
    for path in parts_of(judged.folder):
        os.utime(path)
    assert withdraw_changed(judged.folder) == []
    assert (judged.folder / "complete.json").is_file()


@pytest.mark.fault(28)
def test_entries_judged_on_different_samples_are_refused_with_the_list(samples, tmp_path):
    first, second = entry(tmp_path, "a"), entry(tmp_path, "b")
    judge([first], samples[:-1])
    judge([second], samples[1:])
    assert finalize(first, samples[:-1])
    assert finalize(second, samples[1:])
    ours, theirs = (
        read_run_predictions(judged.folder, run_id=judged.run_id, entry=judged.run_id, seed=0)
        for judged in (first, second)
    )
    with pytest.raises(RecordError, match="judged on different samples") as error:
        check_same_samples(ours, theirs)
    ids = sorted(sample.sample_id for sample in samples)
    (only_ours,) = set(ours.sample_ids) - set(theirs.sample_ids)
    (only_theirs,) = set(theirs.sample_ids) - set(ours.sample_ids)
    assert {only_ours, only_theirs} <= set(ids)
    assert f"1 only in a ({str(only_ours)!r})" in str(error.value)
    assert f"1 only in b ({str(only_theirs)!r})" in str(error.value)
