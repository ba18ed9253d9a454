"""Promises of judging images: bit-equal to one at a time, resumable, sharded, every head kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm

from regatta.core.errors import ConfigError, StopRequested, UnknownNameError
from regatta.core.signals import StopFlag
from regatta.evaluation.image_protocols import UNCHANGED
from regatta.evaluation.judge_images import complete_images, judge_elsewhere
from regatta.evaluation.judged_parts import ood_entry
from regatta.evaluation.ood_sets import make_noise, open_ood_sets
from regatta.evaluation.predict import JudgedEntry
from regatta.records.predictions import read_run_predictions
from tests.evaluation.tiny_images import (
    SIDE,
    Pictures,
    TinyCnn,
    TinyFusion,
    entry,
    judge,
    naive_scores,
    protocol,
)
from tests.evaluation.tiny_judging import CLASSES, CPU, hashes, parts_of, rows_of, table_of

ROBUST = protocol(
    "image-robustness",
    noise=[0.1],
    corruptions=["fog", "glass_blur", "jpeg_compression"],
    severities=[1, 5],
)
HEADS = ("global", "expert-0", "expert-1")


@pytest.fixture(scope="module")
def pictures():
    return Pictures()


class NamesTooMany(TinyCnn):
    head_names = HEADS


def complete(judged: JudgedEntry, pictures: Pictures, **changes: Any) -> bool:
    settings: dict[str, Any] = {"part_samples": 3, "classes": CLASSES}
    settings |= {"samples": pictures.samples, "protocol": ROBUST}
    return complete_images(judged, **(settings | changes))


def head_folder(judged: JudgedEntry, name: str):
    return judged.folder if name == "global" else judged.folder / "heads" / name


@pytest.mark.parametrize("design", [protocol(), ROBUST], ids=["plain", "robust"])
def test_scores_are_bit_equal_to_each_image_alone(pictures, tmp_path, design):
    entries = [entry(tmp_path, "a"), entry(tmp_path, "bb")]
    judge(entries, pictures, design)
    for judged in entries:
        wanted = naive_scores(judged, pictures, design)
        table, scores = table_of(judged.folder)
        assert len(table) == len(wanted) == 10 * len(design.conditions)
        for row, found in zip(rows_of(table), scores, strict=True):
            assert np.array_equal(found, wanted[row["sample_id"], row["condition"]]), row


def test_every_head_is_kept_from_one_pass(pictures, tmp_path):
    module = TinyFusion()
    judged = entry(tmp_path, "fused", module)
    assert judged.folders == [head_folder(judged, name) for name in HEADS]
    judge([judged], pictures, ROBUST)
    # 10 images in parts of 3 under 8 conditions, in batches of 4: 3 x 6 and 1 x 2 batches.
    assert module.experts[0].batches == [4] * 20
    assert complete(judged, pictures)
    wanted = naive_scores(judged, pictures, ROBUST)
    for number, name in enumerate(HEADS):
        found = read_run_predictions(head_folder(judged, name), run_id="f", entry="f", seed=0)
        assert found.scores.shape == (8, 10, 3)
        for c, condition in enumerate(found.conditions):
            for n, sample_id in enumerate(found.sample_ids):
                expected = wanted[sample_id, condition.id][number]
                assert np.array_equal(found.scores[c, n], expected)
        assert (found.cost["forward_seconds"] > 0) == (name == "global")


def test_a_part_is_judged_again_when_one_head_lacks_it(pictures, tmp_path):
    judged = entry(tmp_path, "fused", TinyFusion())
    judge([judged], pictures, ROBUST)
    before = {name: hashes(head_folder(judged, name)) for name in HEADS}
    parts_of(head_folder(judged, "expert-1"))[2].unlink()
    assert not complete(judged, pictures)
    assert not (judged.folder / "complete.json").exists()
    cost = judge([judged], pictures, ROBUST)
    assert (cost.parts_kept, cost.parts_done) == (3, 1)
    assert {name: hashes(head_folder(judged, name)) for name in HEADS} == before
    assert complete(judged, pictures)


def test_a_model_that_answers_with_fewer_heads_than_it_names_fails_alone(pictures, tmp_path):
    good, bad = entry(tmp_path, "good"), entry(tmp_path, "bad", NamesTooMany())
    cost = judge([good, bad], pictures, protocol())
    assert "names 3 heads but answers 1" in str(cost.failed["bad"])
    assert len(parts_of(good.folder)) == 4


def test_shards_order_and_company_change_no_bit(pictures, tmp_path):
    whole = [entry(tmp_path / "whole", "a"), entry(tmp_path / "whole", "bb")]
    judge(whole, pictures, ROBUST)
    split = entry(tmp_path / "split", "a")
    for number in (1, 0):
        judge([split], pictures, ROBUST, shard=(number, 2), samples=pictures.samples[::-1])
    assert hashes(split.folder) == hashes(whole[0].folder)


def test_a_stop_keeps_finished_parts_and_the_rest_equals_an_uninterrupted_judging(
    pictures, tmp_path
):
    torch.manual_seed(0)
    module, stop = TinyFusion(), StopFlag()
    judged = entry(tmp_path / "stopped", "fused", module)

    def told(facts: dict[str, Any]) -> None:
        if facts["step"] == 2:
            stop.request()

    with pytest.raises(StopRequested):
        judge([judged], pictures, ROBUST, stop=stop, report=told)
    assert [len(parts_of(folder)) for folder in judged.folders] == [2, 2, 2]
    cost = judge([judged], pictures, ROBUST)
    assert (cost.parts_kept, cost.parts_done) == (2, 2)
    whole = entry(tmp_path / "whole", "fused", module)
    judge([whole], pictures, ROBUST)
    assert [hashes(f) for f in judged.folders] == [hashes(f) for f in whole.folders]


def test_rows_tell_what_an_image_is(pictures, tmp_path):
    judge([entry(tmp_path, "a")], pictures, ROBUST)
    rows = [row for row in rows_of(table_of(tmp_path / "a")[0]) if row["sample_id"] == "i04"]
    assert [row["condition"] for row in rows] == [c.id for c in ROBUST.conditions]
    assert {(row["distinct_frames"], row["label"], row["pad_share"]) for row in rows} == {(1, 1, 0)}
    assert all(np.isnan(row["rate_hz"]) for row in rows)
    assert len({row["clip_key"] for row in rows}) == 8


def test_images_from_elsewhere_have_folders_of_their_own(pictures, tmp_path):
    folder = torch.randint(0, 256, (5, 3, SIDE, SIDE), dtype=torch.uint8)
    items = ["gaussian-noise", "images:../data/SVHN test.zip", "images:not-there"]
    assert protocol("image-robustness", ood=items).ood == tuple(items)
    sets, absent = open_ood_sets(items, {items[1]: folder}, count=7, shape=(3, SIDE, SIDE))
    assert absent == ["images:not-there"]
    assert [len(ood.samples) for ood in sets] == [7, 5]
    judged = entry(tmp_path, "a")
    cost = judge_elsewhere([judged], sets, batch_size=4, part_samples=3, device=CPU)
    assert (cost.parts_done, cost.samples, cost.failed) == (5, 12, {})
    for ood, count in zip(sets, (7, 5), strict=True):
        beside = ood_entry(judged, ood)
        assert beside.folder == judged.folder / "ood" / ood.name
        assert complete_images(beside, ood.samples, UNCHANGED, part_samples=3, classes=CLASSES)
        found = read_run_predictions(beside.folder, run_id="a", entry="a", seed=0)
        assert found.labels.tolist() == [-1] * count
    # Another picture in the set makes all its predictions stale.
    changed = folder.clone()
    changed[0] = 255 - changed[0]
    again, _ = open_ood_sets(items[1:2], {items[1]: changed}, count=7, shape=(3, SIDE, SIDE))
    redone = judge_elsewhere([judged], again, batch_size=4, part_samples=3, device=CPU)
    assert redone.parts_done == 2


def test_noise_from_elsewhere_has_the_published_distribution():
    """N(0.5, 1) cut to 0..1: a share of Phi(-0.5) at either end, less half a grey level."""
    normal = make_noise("gaussian-noise", 50, (3, 32, 32), seed=0).double() / 255
    count = normal.numel()
    for end, edge in ((0.0, 0.5 / 255), (1.0, 1 - 0.5 / 255)):
        share = norm.cdf(edge - 0.5) if end == 0 else 1 - norm.cdf(edge - 0.5)
        found = float((normal == end).double().mean())
        assert abs(found - share) < 5 * (share * (1 - share) / count) ** 0.5
    uniform = make_noise("uniform-noise", 50, (3, 32, 32), seed=0).double()
    assert abs(float(uniform.mean()) - 127.5) < 5 * 73.9 / count**0.5
    assert not torch.equal(normal[0], normal[1])


def test_the_protocol_says_that_its_corruptions_are_not_the_published_arrays():
    assert "not the published arrays" in protocol("image-robustness").notes[0]
    assert protocol("image-robustness", corruptions="none").notes == ()
    assert len(protocol("image-robustness").conditions) == 1 + 4 + 15 * 5
    assert [c.id for c in ROBUST.conditions if c.is_reference] == ["clean"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise": [0.1, 0.1]}, "twice"),
        ({"noise": [1.5]}, "at most 1, got 1.5"),
        ({"severities": [0]}, "1 to 5, got 0"),
        ({"corruptions": ["fog", "fog"]}, "twice"),
        ({"corruptions": ["smoke"]}, "smoke"),
        ({"ood": ["gausian-noise"]}, "did you mean 'gaussian-noise'"),
        ({"ood": ["images:"]}, "images:<folder or zip>"),
        ({"ood": ["images:a/x.zip", "images:b/x"]}, "x twice"),
    ],
)
def test_options_out_of_range_are_named(options, words):
    with pytest.raises(ConfigError) as caught:
        protocol("image-robustness", **options)
    assert words in str(caught.value)


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(UnknownNameError, match="severity") as caught:
        protocol("image-robustness", severity=[1])
    assert "severities" in str(caught.value)
