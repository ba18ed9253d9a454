"""Where weights come from: folders, shards, the hub cache, and files that are refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from regatta.config.schema import EntrySection
from regatta.core.errors import DataError, EnvironmentFault, WeightsError
from regatta.models.spec import make_spec, resolve_model
from regatta.models.weights import load_checkpoint, load_model


def test_a_checkpoints_own_normalisation_is_used(saved, edit_json) -> None:
    folder, _, _ = saved("videomae")
    edit_json(folder / "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3], image_std=[1, 2, 4])
    entry = EntrySection(name="e", model="videomae", size="tiny", checkpoint=str(folder))
    spec = resolve_model(entry, 4, seed=0)
    assert spec.pretrained
    assert (spec.mean, spec.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
    assert load_checkpoint(spec.build(4), spec, str(folder)).loaded


def test_clips_normalised_otherwise_than_in_training_are_refused(
    saved, tiny_spec, edit_json
) -> None:
    folder, _, spec = saved("vivit")
    edit_json(folder / "preprocessor_config.json", image_mean=[0.45] * 3)
    with pytest.raises(WeightsError, match="trained with mean"):
        load_checkpoint(spec.build(4), spec, str(folder))


def test_without_a_processor_file_the_published_normalisation_stands(saved) -> None:
    folder, _, spec = saved("timesformer")
    unsaid = "does not say how its pictures were scaled"
    assert unsaid not in load_checkpoint(spec.build(4), spec, str(folder)).summary()
    (folder / "preprocessor_config.json").unlink()
    entry = EntrySection(name="e", model="timesformer", size="tiny", checkpoint=str(folder))
    assert resolve_model(entry, 4, seed=0).mean == spec.mean
    # Taken, but told.
    assert unsaid in load_checkpoint(spec.build(4), spec, str(folder)).summary()


@pytest.mark.parametrize(
    "changes",
    [
        {"image_mean": [0.5, 0.5]},
        {"image_std": [1, 1, 0]},
        {"image_mean": "x"},
        {"image_std": None},
    ],
)
def test_an_unusable_processor_file_is_refused(saved, changes, edit_json) -> None:
    folder, _, _ = saved("videomae")
    edit_json(folder / "preprocessor_config.json", **changes)
    entry = EntrySection(name="e", model="videomae", size="tiny", checkpoint=str(folder))
    with pytest.raises(WeightsError, match="image_mean"):
        resolve_model(entry, 4, seed=0)


def split_into_shards(folder: Path) -> dict[str, str]:
    state = load_file(folder / "model.safetensors")
    names = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    shards = {name: dict(list(state.items())[n::3]) for n, name in enumerate(names)}
    for name, part in shards.items():
        save_file(part, folder / name)
    weight_map = {key: name for name, part in shards.items() for key in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model.safetensors").unlink()
    return weight_map


def test_sharded_checkpoints_are_read_whole(saved, clips, classes, tiny_spec) -> None:
    folder, module, spec = saved("videomae")
    split_into_shards(folder)
    loaded = tiny_spec("videomae", seed=7).build(4).eval()
    load_checkpoint(loaded, spec, str(folder), classes=classes)
    assert torch.equal(loaded(clips(spec)), module(clips(spec)))


def test_a_missing_shard_a_lost_key_and_a_foreign_path_are_refused(saved) -> None:
    folder, _, spec = saved("videomae")
    weight_map = split_into_shards(folder)
    index = folder / "model.safetensors.index.json"
    (folder / "model-00002-of-00003.safetensors").rename(folder / "away")
    with pytest.raises(WeightsError, match="cannot be read") as caught:
        load_checkpoint(spec.build(4), spec, str(folder))
    assert "model-00002-of-00003" in str(caught.value.where)

    (folder / "away").rename(folder / "model-00002-of-00003.safetensors")
    index.write_text(
        json.dumps({"weight_map": {**weight_map, "ghost": "model-00001-of-00003.safetensors"}})
    )
    with pytest.raises(WeightsError, match="shards lack keys of the index: ghost"):
        load_checkpoint(spec.build(4), spec, str(folder))

    index.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    with pytest.raises(DataError, match="leaves the data folder"):
        load_checkpoint(spec.build(4), spec, str(folder))

    index.write_text(json.dumps({"weights": []}))
    with pytest.raises(WeightsError, match="no weight_map"):
        load_checkpoint(spec.build(4), spec, str(folder))


def test_pickled_weights_are_never_opened(saved) -> None:
    folder, _, spec = saved("videomae")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin.*could run code") as caught:
        load_checkpoint(spec.build(4), spec, str(folder))
    assert "regatta data import-weights pytorch_model.bin" in str(caught.value.hint)


def test_cut_damaged_and_absent_files_are_named(saved) -> None:
    folder, _, spec = saved("cnn3d")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", os.urandom(64)):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="cannot be read as safetensors") as caught:
            load_checkpoint(spec.build(4), spec, str(folder))
        assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(WeightsError, match=r"no model\.safetensors"):
        load_checkpoint(spec.build(4), spec, str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="JSON"):
        load_checkpoint(spec.build(4), spec, str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match="missing"):
        load_model(folder)


def test_nan_weights_are_refused_with_their_keys(saved, edit_weights) -> None:
    folder, _, spec = saved("cnn3d")
    edit_weights(folder, lambda state: state["stem.weight"].view(-1)[7].fill_(float("nan")))
    with pytest.raises(WeightsError, match=r"NaN or infinite weights: stem\.weight"):
        load_checkpoint(spec.build(4), spec, str(folder))


def test_two_stored_names_for_one_tensor_are_refused(saved, edit_weights) -> None:
    folder, _, spec = saved("videomae")
    key = "videomae.encoder.layer.0.attention.attention.q_bias"
    edit_weights(folder, lambda state: state.update({key: torch.zeros(96)}))
    with pytest.raises(WeightsError, match="two tensors"):
        load_checkpoint(spec.build(4), spec, str(folder))


def test_half_precision_checkpoints_load_into_a_full_precision_model(
    saved, classes, edit_weights
) -> None:
    folder, module, spec = saved("vivit")
    edit_weights(folder, lambda state: state.update({k: v.half() for k, v in state.items()}))
    loaded = spec.build(4)
    load_checkpoint(loaded, spec, str(folder), classes=classes)
    for key, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, module.state_dict()[key].half().float())


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache in the library's own layout, without network."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return cache


def put_in_cache(cache: Path, name: str, folder: Path, *, commit: str, ref: str) -> None:
    store = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, store / "snapshots" / commit)
    (store / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
    (store / "refs" / ref).write_text(commit)


@pytest.mark.parametrize("revision", ["", "@v1", "@refs/pr/5", "@" + "ab" * 20])
def test_a_cached_hub_checkpoint_is_read_offline_and_its_commit_is_reported(
    saved, hub_cache: Path, revision: str
) -> None:
    folder, module, _ = saved("videomae")
    commit = "ab" * 20
    ref = revision.removeprefix("@") or "main"
    put_in_cache(hub_cache, "someone/model", folder, commit=commit, ref=ref)
    checkpoint = f"someone/model{revision}"
    entry = EntrySection(name="e", model="videomae", size="tiny", checkpoint=checkpoint)
    resolved = resolve_model(entry, 4, seed=0)
    built = resolved.build(4)
    report = load_checkpoint(built, resolved, checkpoint)
    assert report.source == f"someone/model@{commit}"
    assert torch.equal(
        built.state_dict()["hf.fc_norm.weight"], module.state_dict()["hf.fc_norm.weight"]
    )


def test_the_default_checkpoint_offline_names_the_cache_and_the_cure(hub_cache: Path) -> None:
    spec = make_spec("timesformer", "base", {})
    with torch.device("meta"):
        module = spec.build(4)
    with pytest.raises(EnvironmentFault) as caught:
        load_checkpoint(module, spec, "default")
    told = str(caught.value)
    assert "facebook/timesformer-base-finetuned-k400" in told
    assert str(hub_cache) in told
    assert "hf download" in told
    assert "checkpoint: none" in told


def test_a_revision_that_is_not_cached_is_not_replaced_by_another(saved, hub_cache: Path) -> None:
    folder, _, spec = saved("videomae")
    put_in_cache(hub_cache, "someone/model", folder, commit="ab" * 20, ref="main")
    with pytest.raises(EnvironmentFault, match="someone/model@v2"):
        load_checkpoint(spec.build(4), spec, "someone/model@v2")


@pytest.mark.parametrize(
    "checkpoint",
    ["./nowhere", "/no/such/folder", "one-word", "a/b/c", "a/b@", "a/b@x/../../y", "a--b/c"],
)
def test_neither_a_folder_nor_a_hub_id_is_told_with_both_forms(tiny_spec, checkpoint: str) -> None:
    spec = tiny_spec("videomae")
    with pytest.raises(WeightsError, match="no checkpoint folder") as caught:
        load_checkpoint(spec.build(4), spec, checkpoint)
    assert "org/name@revision" in str(caught.value.hint)


def test_a_file_in_place_of_a_folder_is_refused(tiny_spec, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"x")
    with pytest.raises(WeightsError, match="no checkpoint folder"):
        load_checkpoint(tiny_spec("cnn3d").build(4), tiny_spec("cnn3d"), str(path))
