"""Promises of the batched forward pass: equal bits in any company, order kept, failures named."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from threading import Event, Semaphore, Thread
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from regatta.config.schema import EntrySection
from regatta.core.errors import RunError, StopRequested
from regatta.data.transforms import normalise
from regatta.evaluation.predict import (
    SIDE_BY_SIDE_BYTES,
    BatchedForward,
    DeviceTimer,
    ForwardPool,
    JudgedEntry,
    batches_side_by_side,
)
from regatta.models.spec import ModelSpec, resolve_model

CPU = torch.device("cpu")


class TinyConv(nn.Module):
    """A convolution over space and time, a mean and a linear head."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 5, 3, padding=1)
        self.head = nn.Linear(5, classes)
        self.batches: list[int] = []

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(video))
        return self.head(self.conv(video.transpose(1, 2)).relu().mean((2, 3, 4)))


def tiny_spec(frames: int = 4, image_size: int = 9) -> ModelSpec:
    return ModelSpec(
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


def tiny_entry(module: nn.Module | None = None) -> JudgedEntry:
    torch.manual_seed(0)
    return JudgedEntry("tiny-s0", (module or TinyConv()).eval(), tiny_spec(), Path("unused"))


def real_entry(model: str) -> JudgedEntry:
    section = EntrySection.model_validate({"model": model, "size": "tiny", "checkpoint": "none"})
    spec = resolve_model(section, 4, seed=0)
    return JudgedEntry(f"{model}-s0", spec.build(4).eval(), spec, Path("unused"))


def forward(entry: JudgedEntry, batch_size: int, **changes: Any) -> BatchedForward:
    settings: dict[str, Any] = {"device": CPU, "autocast": None, "poll": lambda: None}
    return BatchedForward(entry, batch_size=batch_size, **{**settings, **changes})


def clips_of(entry: JudgedEntry, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames [U, 3, S, S] and rows [count, T] of a made-up sample."""
    rng = np.random.default_rng(seed)
    side, frames = entry.spec.image_size, entry.spec.frames
    pictures = torch.from_numpy(rng.integers(0, 256, (2 * frames, 3, side, side), dtype=np.uint8))
    return pictures, torch.from_numpy(rng.integers(0, 2 * frames, (count, frames)))


def alone(
    entry: JudgedEntry, frames: torch.Tensor, rows: torch.Tensor, batch_size: int
) -> np.ndarray:
    """The naive way: one clip, repeated to a full batch."""
    batch = frames[rows].expand(batch_size, *frames[rows].shape)
    with torch.inference_mode():
        return entry.module(normalise(batch, entry.spec.mean, entry.spec.std))[0].numpy()


@pytest.mark.parametrize("batch_size", [1, 4, 5])
@pytest.mark.parametrize("counts", [[7], [1, 1, 9], [4, 4], [2, 3, 5, 1]])
def test_scores_are_bit_equal_to_each_clip_alone_and_in_order(batch_size, counts):
    entry = tiny_entry()
    batched = forward(entry, batch_size)
    wanted = []
    for seed, count in enumerate(counts):
        frames, rows = clips_of(entry, count, seed)
        batched.add(frames, rows)
        wanted += [alone(entry, frames, row, batch_size) for row in rows]
    scores, seconds = batched.finish()
    assert scores.dtype == np.float32
    assert np.array_equal(scores, np.stack(wanted))
    assert seconds > 0


@pytest.mark.parametrize("model", ["cnn3d", "timesformer", "videomae", "vivit"])
def test_real_models_give_equal_bits_at_every_place_of_a_batch(model):
    entry = real_entry(model)
    frames, rows = clips_of(entry, 7)
    batched = forward(entry, 5)
    batched.add(frames, rows)
    scores, _ = batched.finish()
    wanted = np.stack([alone(entry, frames, row, 5) for row in rows])
    assert np.array_equal(scores, wanted)


def test_every_batch_has_the_same_size_and_none_is_run_for_nothing():
    module = TinyConv()
    entry = tiny_entry(module)
    batched = forward(entry, 4)
    for seed, count in enumerate([3, 4, 2]):
        batched.add(*clips_of(entry, count, seed))
    scores, _ = batched.finish()
    assert scores.shape == (9, 3)
    assert module.batches == [4, 4, 4]


def test_it_can_be_used_again_after_finish():
    entry = tiny_entry()
    batched = forward(entry, 4)
    frames, rows = clips_of(entry, 3)
    batched.add(frames, rows)
    first, _ = batched.finish()
    batched.add(frames, rows)
    again, _ = batched.finish()
    assert np.array_equal(first, again)


def test_autocast_computes_in_half_precision_and_returns_float32():
    entry = tiny_entry()
    frames, rows = clips_of(entry, 3)
    results = []
    for dtype in (None, torch.bfloat16):
        batched = forward(entry, 4, autocast=dtype)
        batched.add(frames, rows)
        results.append(batched.finish()[0])
    assert results[1].dtype == np.float32
    assert not np.array_equal(results[0], results[1])
    # bfloat16 keeps 8 bits: the relative error of a sum of like terms stays below a few 2**-8.
    assert np.abs(results[0] - results[1]).max() < 0.05 * np.abs(results[0]).max()


def test_gradients_are_not_kept():
    class Remember(TinyConv):
        def forward(self, video: torch.Tensor) -> torch.Tensor:
            self.result = super().forward(video)
            return self.result

    module = Remember()
    batched = forward(tiny_entry(module), 2)
    batched.add(*clips_of(tiny_entry(), 2))
    assert not module.result.requires_grad


def test_a_model_that_fails_is_named_with_its_batch():
    class Broken(TinyConv):
        def forward(self, video: torch.Tensor) -> torch.Tensor:
            return self.head(video)

    batched = forward(tiny_entry(Broken()), 2)
    with pytest.raises(RunError, match="judging 2 clips of 4 frames") as caught:
        batched.add(*clips_of(tiny_entry(), 2))
    assert caught.value.where == "tiny-s0"


def test_out_of_device_memory_advises_a_smaller_batch():
    class Huge(TinyConv):
        def forward(self, video: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError(f"tried to allocate 2 GiB for {video.shape}")

    with pytest.raises(RunError, match="out of device memory") as caught:
        forward(tiny_entry(Huge()), 2).add(*clips_of(tiny_entry(), 2))
    assert "protocol.batch_size" in str(caught.value.hint)


def test_it_asks_before_every_batch_whether_to_leave():
    asked = []

    def poll() -> None:
        asked.append(len(asked))
        if len(asked) == 2:
            raise StopRequested("stop")

    entry = tiny_entry()
    batched = forward(entry, 2, poll=poll)
    with pytest.raises(StopRequested):
        batched.add(*clips_of(entry, 6))
    assert asked == [0, 1]


def test_timer_gives_what_was_measured_since_the_last_look():
    timer = DeviceTimer(CPU)
    with timer.measure():
        sum(range(10_000))
    with timer.measure():
        sum(range(10_000))
    assert timer.take() > 0
    assert timer.take() == 0


@pytest.mark.parametrize("model", ["cnn3d", "timesformer", "videomae", "vivit"])
def test_batches_side_by_side_have_equal_bits_and_keep_their_order(model):
    entry = real_entry(model)
    frames, rows = clips_of(entry, 9)
    plain = forward(entry, 2)
    plain.add(frames, rows)
    wanted, _ = plain.finish()
    with closing(ForwardPool(3, threads=3)) as pool:
        batched = forward(entry, 2, pool=pool)
        batched.add(frames, rows[:4])
        batched.add(frames, rows[4:])
        scores, seconds = batched.finish()
    assert np.array_equal(scores, wanted)
    assert seconds > 0


def test_queued_clips_are_not_touched_by_later_ones():
    entry, gate = tiny_entry(), Event()

    class Waits(TinyConv):
        def forward(self, video: torch.Tensor) -> torch.Tensor:
            assert gate.wait(30)
            return super().forward(video)

    torch.manual_seed(0)
    waiting = tiny_entry(Waits())
    frames, rows = clips_of(entry, 4)
    with closing(ForwardPool(1, threads=1)) as pool:
        batched = forward(waiting, 2, pool=pool)
        batched.add(frames, rows)
        gate.set()
        scores, _ = batched.finish()
    assert np.array_equal(scores, np.stack([alone(waiting, frames, row, 2) for row in rows]))


def test_clips_do_not_pile_up_before_a_slow_model():
    gate, running = Event(), Semaphore(0)

    def slow() -> None:
        running.release()
        assert gate.wait(30)

    done: list[int] = []
    with closing(ForwardPool(1, threads=1)) as pool:
        pool.submit(slow)
        assert running.acquire(timeout=30)
        pool.submit(lambda: done.append(1))
        third = Thread(target=lambda: pool.submit(lambda: done.append(2)))
        third.start()
        # One runs, one waits; the third is not even taken.
        third.join(0.05)
        assert third.is_alive()
        gate.set()
        third.join(30)
    assert done in ([1], [1, 2])


def test_a_failure_in_another_thread_names_the_run():
    class Broken(TinyConv):
        def forward(self, video: torch.Tensor) -> torch.Tensor:
            raise RuntimeError(f"no kernel for {video.dtype}")

    with closing(ForwardPool(2, threads=2)) as pool:
        batched = forward(tiny_entry(Broken()), 2, pool=pool)
        batched.add(*clips_of(tiny_entry(), 2))
        with pytest.raises(RunError, match="no kernel") as caught:
            batched.finish()
    assert caught.value.where == "tiny-s0"


@given(
    frames=st.integers(1, 64),
    side=st.integers(8, 512),
    batch_size=st.integers(1, 64),
    threads=st.integers(1, 64),
)
def test_batches_side_by_side_share_the_cores_evenly_and_bound_memory(
    frames, side, batch_size, threads
):
    workers = batches_side_by_side(
        [tiny_spec(frames, side), tiny_spec(1, 8)], batch_size=batch_size, threads=threads
    )
    assert threads % workers == 0
    floats = batch_size * frames * 3 * side * side
    assert workers == 1 or workers * floats * 4 <= SIDE_BY_SIDE_BYTES


def test_tiny_models_use_every_core_and_large_ones_share_them():
    assert batches_side_by_side([tiny_spec(32, 32)], batch_size=16, threads=4) == 4
    assert batches_side_by_side([tiny_spec(32, 224)], batch_size=16, threads=4) == 1
