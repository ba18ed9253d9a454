"""Promises of the protocol sensor-robustness: its conditions, its draws, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from regatta.config.schema import ProtocolSection
from regatta.core.errors import ConfigError
from regatta.core.registry import PROTOCOLS
from regatta.evaluation.window_protocols import (
    Recordings,
    SignalFacts,
    Window,
    WindowProtocol,
    check_window_protocol,
    signal_facts,
)
from tests.evaluation.tiny_windows import CHANNELS, HOP, LENGTH, protocol, recordings

DATA = recordings()
FACTS = signal_facts(*DATA)
TEST = DATA[0].split("test")
ROBUST = protocol("sensor-robustness", offset_samples=[8, 16])


def window(number: int = 0, facts: SignalFacts = FACTS) -> Window:
    return Window(TEST[number], DATA[1].select([TEST[number]])[0].numpy(), facts)


def shown(condition: str, number: int = 0, design: WindowProtocol = ROBUST) -> np.ndarray:
    found = next(c for c in design.conditions if c.id == condition)
    assert design.show is not None
    return design.show(window(number), found).signal_CL


def test_the_default_conditions_are_those_of_the_published_list():
    found = [
        (c.axes["perturbation"], c.axes["level"]) for c in protocol("sensor-robustness").conditions
    ]
    wanted = {
        "clean": [0],
        "noise": [0.05, 0.1, 0.2, 0.5],
        "rotation": [15, 45, 90],
        "gain": [0.5, 0.8, 1.25, 2],
        "one-channel-missing": [1],
        "one-sensor-missing": [1],
        "block": [10, 25, 50],
        "rate": [25, 12.5],
        "rate-lowpass": [25, 12.5],
        "offset": [8, 16, 32],
    }
    assert found == [(name, level) for name, levels in wanted.items() for level in levels]
    assert [c.id for c in ROBUST.conditions if c.is_reference] == ["clean"]
    assert PROTOCOLS.listed["sensor-robustness"].kind == "signal"


def test_clean_windows_are_untouched():
    assert np.array_equal(shown("clean"), window().signal_CL)


def test_noise_is_measured_in_sd_of_the_training_windows_of_each_channel():
    manifest, store = DATA
    training = store.select(manifest.split("train")).numpy().astype(np.float64)
    noise = np.concatenate(
        [shown("noise-0.5", n) - window(n).signal_CL for n in range(len(TEST))], axis=1
    )
    # 320 values per channel: the sd of an estimated sd is 4 %.
    assert noise.std(axis=1) == pytest.approx(0.5 * training.std(axis=(0, 2)), rel=0.15)


def lost_channels(
    condition: str, number: int = 0, design: WindowProtocol = ROBUST
) -> tuple[int, ...]:
    return tuple(np.flatnonzero(~shown(condition, number, design).any(axis=1)).tolist())


def test_levels_share_one_draw_and_windows_do_not():
    small, large = (shown(f"noise-{x}") - window().signal_CL for x in ("0.05", "0.5"))
    assert large == pytest.approx(10 * small, abs=1e-4)
    channels = {lost_channels("one-channel-missing", n) for n in range(len(TEST))}
    assert len(channels) > 1
    assert all(len(lost) == 1 for lost in channels)
    sensors = {lost_channels("one-sensor-missing", n) for n in range(len(TEST))}
    assert sensors == {(0, 1, 2), (3, 4, 5)}


def test_the_seed_alone_decides_the_draws():
    same, other = (protocol("sensor-robustness", perturbation_seed=seed) for seed in (0, 1))
    for condition in ("noise-0.2", "rotation-45", "block-25"):
        assert np.array_equal(shown(condition, 3), shown(condition, 3, same))
        assert not np.array_equal(shown(condition, 3), shown(condition, 3, other))


def test_named_channels_and_sensors_are_lost_in_turn():
    design = protocol("sensor-robustness", missing=[], missing_channels=[0, 5], missing_sensors=[1])
    ids = [c.id for c in design.conditions]
    assert "one-channel-missing" not in ids
    assert {"channel-0", "channel-5", "sensor-1"} <= set(ids)
    assert lost_channels("channel-5", 0, design) == (5,)
    assert lost_channels("sensor-1", 0, design) == (3, 4, 5)


def test_a_later_start_shows_what_the_recording_holds_there():
    _, store = DATA
    # Windows r2-w0 and r2-w1 overlap by half, so the first one's end is known for 16 samples more.
    after = store.select([TEST[1]])[0].numpy()
    assert [s.sample_id for s in TEST[:2]] == ["r2-w0", "r2-w1"]
    assert np.array_equal(shown("offset-16"), after)
    assert np.array_equal(shown("offset-8")[:, : LENGTH - 8], window().signal_CL[:, 8:])


def test_windows_that_do_not_continue_each_other_are_no_recording():
    manifest, store = DATA
    # One recording and the right starts, but other values where they should overlap.
    foreign = [
        replace(s, extra={"recording": "one"}, start_frame=HOP * n)
        for n, s in enumerate(manifest.samples)
    ]
    found = Recordings([foreign[4], foreign[5]], store)
    signal = store.select([foreign[4]])[0].numpy()
    assert found.following(foreign[4], signal).shape == (CHANNELS, 0)


def test_windows_without_overlap_follow_by_their_start_alone():
    manifest, store = DATA
    first, third = manifest.samples[0], manifest.samples[2]
    signal = store.select([first])[0].numpy()
    found = Recordings([first, third], store).following(first, signal)
    assert np.array_equal(found, store.select([third])[0].numpy())


@pytest.mark.parametrize(
    ("options", "words", "place"),
    [
        ({"noise": [0.0]}, "noise is above 0, got 0", "noise"),
        ({"rotation_degrees": [190]}, "above 0, at most 180, got 190", "rotation_degrees"),
        ({"gain": [2, 2]}, "lists a value twice", "gain"),
        ({"block_percent": [101]}, "at most 100", "block_percent"),
        ({"offset_samples": [0]}, "1 or more, got 0", "offset_samples"),
        ({"missing_channels": [-1]}, "0 or more, got -1", "missing_channels"),
        ({"missing": ["leg"]}, "cannot be", "missing"),
    ],
)
def test_wrong_levels_are_refused_by_name(options, words, place):
    with pytest.raises(ConfigError, match=words) as caught:
        protocol("sensor-robustness", **options)
    assert str(caught.value.where).startswith(f"protocol.options.{place}")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rates_hz": [20.0]}, "20 Hz is no whole fraction of the data's 50 Hz"),
        ({"missing_channels": [6]}, "there is no channel 6"),
        ({"missing_sensors": [2]}, "there is no sensor 2"),
        ({"offset_samples": [32]}, "a window of 32 samples cannot start 32 later"),
    ],
)
def test_levels_that_the_data_cannot_have_are_refused(options, words):
    options = {"offset_samples": [8], **options}
    section = ProtocolSection.model_validate({"name": "sensor-robustness", "options": options})
    with pytest.raises(ConfigError, match=words):
        check_window_protocol(section, DATA[1])


def test_sensors_cannot_turn_or_fail_where_channels_form_no_triples():
    store = replace(DATA[1], triples=())
    for options in ({"missing": ["channel"]}, {"rotation_degrees": []}):
        options = {"offset_samples": [8], **options}
        section = ProtocolSection.model_validate({"name": "sensor-robustness", "options": options})
        with pytest.raises(ConfigError, match="form no x, y, z triples"):
            check_window_protocol(section, store)
    both = {"offset_samples": [8], "missing": ["channel"], "rotation_degrees": []}
    check_window_protocol(
        ProtocolSection.model_validate({"name": "sensor-robustness", "options": both}), store
    )
