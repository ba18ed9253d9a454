"""Controls: what each takes from a clip, and that it takes nothing else."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regatta.core.errors import ConfigError
from regatta.core.seeds import stream
from regatta.evaluation.controls import shuffle_clip
from regatta.evaluation.protocols import plan_all
from tests.evaluation.designs import resolve

totals = st.integers(1, 300)
model_frame_counts = st.integers(1, 40)
names = st.text("abc/.", min_size=1, max_size=6)


@given(totals, model_frame_counts, names, st.integers(0, 99))
def test_each_control_keeps_what_it_does_not_take(total, frames, sample_id, seed):
    protocol = resolve("controls", shuffle_seed=seed)
    plans = plan_all(protocol, total, 30.0, frames, sample_id=sample_id)
    full, shuffled = plans["full"], plans["shuffled"]
    plain = plan_all(resolve("plain"), total, 30.0, frames)["plain"]
    assert full == plain
    assert Counter(shuffled.indices) == Counter(full.indices)
    assert (shuffled.indices != full.indices) == (full.distinct_frames >= 2)
    assert plans["reversed"].indices[::-1] == full.indices
    assert plans["one-frame"].indices == ((total - 1) // 2,) * frames
    assert plans["one-frame"].distinct_frames == plans["static"].distinct_frames == 1
    assert set(plans["static"].shown) == {tuple(sorted(set(full.indices)))}


@given(totals, model_frame_counts)
def test_the_static_picture_is_a_clip_of_its_own_unless_there_is_one_frame(total, frames):
    plans = plan_all(resolve("controls"), total, 30.0, frames, sample_id="a")
    keys = {plans[name].unique_key for name in ("full", "one-frame", "static")}
    assert len(keys) == (1 if plans["full"].distinct_frames == 1 else 3)


def test_samples_are_shuffled_apart_and_repeat_by_seed():
    def order(sample_id: str, seed: int = 0) -> tuple[int, ...]:
        protocol = resolve("controls", shuffle_seed=seed)
        return plan_all(protocol, 64, 32.0, 8, sample_id=sample_id)["shuffled"].indices

    assert len({order(f"clip-{number}") for number in range(20)}) == 20
    assert order("clip-1") == order("clip-1") != order("clip-1", seed=1)


def test_every_other_order_is_about_equally_likely():
    drawn = Counter(shuffle_clip((0, 1, 2), stream(0, "test", n)) for n in range(2000))
    assert (0, 1, 2) not in drawn
    assert len(drawn) == 5
    # 400 each; five standard deviations of a binomial count are 90.
    assert all(abs(count - 400) < 90 for count in drawn.values())


def test_shuffling_without_a_sample_id_is_refused():
    with pytest.raises(ConfigError, match="no sample id"):
        plan_all(resolve("controls"), 50, 25.0, 8)


def test_an_order_that_lies_has_no_ceiling():
    protocol = resolve("controls")
    assert protocol.without_ceiling == {"shuffled", "reversed"}
    assert [c.id for c in protocol.conditions] == [
        "full",
        "one-frame",
        "static",
        "shuffled",
        "reversed",
    ]


def test_bad_options_say_what_and_where():
    with pytest.raises(ConfigError, match="did you mean 'shuffle_seed'") as caught:
        resolve("controls", seed=3)
    assert caught.value.where == "protocol.options"
