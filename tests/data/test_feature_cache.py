"""Features are encoded once, whole or not at all, and never mistaken for others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from regatta.core.errors import NonFiniteError
from regatta.data.feature_cache import FeaturePart, cached_features, tensors_hash
from tests.data.slow_encoder import CHANNELS, COUNT, encode, expected, part, run

REPOSITORY = Path(__file__).parents[2]
BATCHES = 3
"""Of one channel."""


def start(root: Path, *, hold_after: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.data.slow_encoder", str(root), str(hold_after)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, text=True)


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("channel-*.safetensors"))


def test_the_second_time_nothing_is_encoded(tmp_path: Path):
    seen: list[int] = []
    first = run(tmp_path, after_batch=seen.append)
    assert len(seen) == BATCHES * len(CHANNELS)
    second = run(tmp_path, after_batch=seen.append)
    assert torch.equal(first.features[0], expected())
    assert torch.equal(second.features[0], expected())
    assert len(seen) == BATCHES * len(CHANNELS)
    # What it cost stays known, whoever pays it.
    assert second.seconds == first.seconds > 0


def test_one_cache_serves_all_channels_and_one_alone(tmp_path: Path):
    seen: list[int] = []
    run(tmp_path)
    alone = run(tmp_path, after_batch=seen.append, channels=(2,))
    assert torch.equal(alone.features[0], expected()[:, 2:])
    assert not seen


def test_an_encoder_that_is_killed_leaves_whole_channels_and_the_next_goes_on(tmp_path: Path):
    process = start(tmp_path, hold_after=BATCHES + 1)
    assert lines(process, BATCHES + 1) == ["0", "0", "0", "1"]
    process.kill()
    process.communicate()
    assert files(tmp_path) == ["channel-0.safetensors"]
    seen: list[int] = []
    assert torch.equal(run(tmp_path, after_batch=seen.append).features[0], expected())
    assert seen == [1] * BATCHES + [2] * BATCHES


def test_what_a_killed_writer_left_is_swept(tmp_path: Path):
    left = tmp_path / part().key / ".channel-1.safetensors.4242.partial"
    left.parent.mkdir()
    left.write_bytes(b"half")
    run(tmp_path)
    assert not left.exists()


def test_processes_at_work_together_encode_each_channel_once(tmp_path: Path):
    """The other process holds channel 0 until this one has made the rest and waits for it."""
    other = start(tmp_path, hold_after=1)
    assert lines(other, 1) == ["0"]
    seen: list[int] = []

    def release_at_the_end(channel: int) -> None:
        seen.append(channel)
        if len(seen) == 2 * BATCHES:
            assert other.stdin is not None
            other.stdin.write("go on\n")
            other.stdin.flush()

    found = run(tmp_path, after_batch=release_at_the_end)
    assert torch.equal(found.features[0], expected())
    assert seen == [1] * BATCHES + [2] * BATCHES
    output, _ = other.communicate(timeout=60)
    assert output.split() == ["0"] * (BATCHES - 1) + ["done"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def swap(path: Path) -> None:
    path.write_bytes(path.with_name("channel-0.safetensors").read_bytes())


@pytest.mark.parametrize("damage", [cut, flip, swap])
def test_a_cut_damaged_or_foreign_file_is_made_anew_with_one_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
):
    run(tmp_path)
    damage(next(tmp_path.rglob("channel-1.safetensors")))
    seen: list[int] = []
    assert torch.equal(run(tmp_path, after_batch=seen.append).features[0], expected())
    assert seen == [1] * BATCHES
    (record,) = caplog.records
    assert "channel-1.safetensors" in record.getMessage()
    run(tmp_path)
    assert len(caplog.records) == 1


def test_a_stop_request_ends_encoding_between_batches_and_keeps_whole_channels(tmp_path: Path):
    run(tmp_path, channels=(0,))
    seen: list[int] = []

    def noted(signals_BCL: torch.Tensor, channel: int) -> torch.Tensor:
        seen.append(channel)
        return encode(signals_BCL, channel)

    found = cached_features(
        tmp_path,
        [part()],
        channels=CHANNELS,
        encode=noted,
        device=torch.device("cpu"),
        report=lambda _: None,
        stop_asked=lambda: len(seen) >= 2,
    )
    assert found is None
    assert seen == [1, 1]
    assert files(tmp_path) == ["channel-0.safetensors"]


def test_progress_counts_up_to_all_windows(tmp_path: Path):
    reports: list[dict[str, Any]] = []
    run(tmp_path, report=reports.append)
    steps = [report["step"] for report in reports]
    assert steps == sorted(steps)
    assert reports[-1]["step"] == reports[-1]["total_steps"] == COUNT
    assert {report["phase"] for report in reports} == {"encode"}
    assert reports[-1]["seconds_left"] == 0
    assert all(report["samples_per_second"] > 0 for report in reports)


def test_features_that_are_not_finite_are_refused_by_name_and_not_kept(tmp_path: Path):
    broken = part()
    broken.signals[70, 1, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="channel 1: w70"):
        run(tmp_path, parts=[broken])
    assert files(tmp_path) == ["channel-0.safetensors"]


def test_every_ingredient_changes_the_key():
    one = part(weights="a", view=1)
    others = [part(weights="b", view=1), part(weights="a", view=2), part(weights="a")]
    assert len({item.key for item in [one, *others]}) == 4
    again = FeaturePart(one.signals, one.sample_ids, dict(reversed(one.depends_on.items())))
    assert again.key == one.key


def test_the_hash_of_tensors_sees_names_types_shapes_and_every_bit():
    base = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    changed = [
        {"c": base["a"], "b": base["b"]},
        {**base, "a": torch.zeros(3, 2)},
        {**base, "a": torch.zeros(2, 3, dtype=torch.int32)},
        {**base, "b": torch.nextafter(torch.ones(1), torch.zeros(1))},
    ]
    assert tensors_hash(dict(reversed(base.items()))) == tensors_hash(base)
    assert tensors_hash(base) not in {tensors_hash(tensors) for tensors in changed}
