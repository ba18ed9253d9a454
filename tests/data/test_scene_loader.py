"""Scenes in batches: the same whatever reads them, and light that moves nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from regatta.config.schema import DataSection
from regatta.core.errors import ConfigError, DataError
from regatta.data.manifest import Manifest
from regatta.data.scene_loader import SceneAugment, SceneLoader, build_scene_augment
from regatta.data.scene_store import SceneStore, build_scenes

OPTIONS = {"per_class": 6, "cameras": 2, "frames": 8, "size": 32, "stream": True}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, SceneStore]:
    folder = tmp_path_factory.mktemp("scenes")
    data = DataSection(source="trajectories", split_seed=3, options=OPTIONS)
    return build_scenes(data, folder, views=(0, 1))


def loader(scenes: tuple[Manifest, SceneStore], **options) -> SceneLoader:
    manifest, store = scenes
    settings = {"views": (0, 1), "targets": ("forecast",), "batch_size": 4, "seed": 5}
    return SceneLoader(store, manifest.split("train"), **{**settings, **options})


def by_id(batches) -> dict[str, torch.Tensor]:
    return {
        sample_id: scene
        for batch in batches
        for sample_id, scene in zip(batch.sample_ids, batch.inputs, strict=True)
    }


def test_an_epoch_gives_every_scene_once_with_its_own_class_and_place(scenes):
    manifest, store = scenes
    batches = list(loader(scenes).batches(0))
    seen = [name for batch in batches for name in batch.sample_ids]
    train = {sample.sample_id: sample for sample in manifest.split("train")}
    assert sorted(seen) == sorted(train)
    for batch in batches:
        assert batch.inputs.dtype == torch.uint8
        assert batch.inputs.shape[1:] == (2, 8, 3, 32, 32)
        for name, label, place in zip(batch.sample_ids, batch.labels, batch.targets, strict=True):
            assert label == train[name].label
            row = store.rows([train[name]])
            # Eight frames are shown; the target is five behind the last.
            assert np.allclose(place.numpy()[0], store.positions[row, 12][0], atol=1e-6)


def test_a_scene_looks_the_same_for_any_batch_size_rank_thread_and_start(scenes):
    augment = SceneAugment()
    whole = by_id(loader(scenes, augment=augment).batches(2))
    others = [
        by_id(loader(scenes, augment=augment, batch_size=3, threads=0).batches(2)),
        by_id(loader(scenes, augment=augment).batches(2, start=1)),
        *(by_id(loader(scenes, augment=augment, rank=rank, world=2).batches(2)) for rank in (0, 1)),
    ]
    assert set(others[2]) | set(others[3]) == set(whole)
    assert not set(others[2]) & set(others[3])
    for other in others:
        assert other
        for name, scene in other.items():
            assert torch.equal(scene, whole[name])


def test_another_epoch_has_another_order_and_other_light(scenes):
    first, second = (list(loader(scenes, augment=SceneAugment()).batches(e)) for e in (0, 1))
    assert [b.sample_ids for b in first] != [b.sample_ids for b in second]
    one, other = by_id(first), by_id(second)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_resumed_epoch_goes_on_where_it_was_left(scenes):
    whole = list(loader(scenes).batches(1))
    rest = list(loader(scenes).batches(1, start=2))
    assert [b.sample_ids for b in rest] == [b.sample_ids for b in whole[2:]]


def test_fresh_scenes_are_new_in_every_epoch_but_the_first_and_resume_alike(scenes):
    fresh = loader(scenes, fresh=True)
    first, second, third = (by_id(fresh.batches(epoch)) for epoch in range(3))
    assert set(first) == {sample.sample_id for sample in scenes[0].split("train")}
    assert len(second) == len(third) == len(first)
    assert not set(first) & set(second)
    assert not set(second) & set(third)
    known = {scene.numpy().tobytes() for scene in scenes[1].frames(range(24), (0, 1))}
    assert not known & {scene.numpy().tobytes() for scene in second.values()}
    resumed = by_id(fresh.batches(1, start=2))
    assert all(torch.equal(scene, second[name]) for name, scene in resumed.items())
    # Classes take turns in the order that scenes are drawn in.
    labels = [label for batch in fresh.batches(1) for label in batch.labels.tolist()]
    assert max(map(labels.count, range(4))) - min(map(labels.count, range(4))) <= 1


def test_light_moves_no_ball(scenes):
    """Without noise each colour shifts by one amount everywhere: every edge stays where it is."""
    plain = scenes[1].frames([0], (0, 1))[0].to(torch.int16)
    augment = SceneAugment(noise=0.0, brightness=0.1, ground=0.05)
    changed = augment(plain.to(torch.uint8), torch.Generator().manual_seed(4)).to(torch.int16)
    shifts = []
    for colour in range(3):
        before, after = plain[:, :, colour], changed[:, :, colour]
        shift = (after - before)[(after > 0) & (after < 255)]
        assert len(shift)
        assert shift.max() - shift.min() <= 1
        shifts.append(shift.float().mean())
    assert max(abs(shift) for shift in shifts) > 1


def test_no_change_of_light_at_all_is_the_picture_itself(scenes):
    scene = scenes[1].frames([0], (0,))[0]
    assert torch.equal(SceneAugment(0.0, 0.0, 0.0)(scene, torch.Generator()), scene)


@pytest.mark.parametrize("options", [{"noise": 2.0}, {"brightness": -0.1}, {"flip": True}])
def test_impossible_changes_are_refused(options: dict[str, object]):
    with pytest.raises(ConfigError):
        build_scene_augment(options)


def test_no_scenes_are_refused(scenes):
    with pytest.raises(DataError, match="no samples"):
        SceneLoader(scenes[1], [], views=(0,), targets=(), batch_size=4, seed=0)
