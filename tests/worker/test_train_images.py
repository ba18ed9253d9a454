"""Promises of training on pictures: whose weights a fusion starts with, who sees which pictures,
and what is encoded or trained only once."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from regatta.config.load import study_from_mapping
from regatta.config.schema import EntrySection
from regatta.core.errors import ConfigError, DataError, WeightsError
from regatta.core.files import read_json
from regatta.core.signals import StopFlag
from regatta.data.image_store import ImageStore
from regatta.data.manifest import Manifest
from regatta.models.weights import read_state
from regatta.records.run_folder import StudyFolder, open_study
from regatta.worker.image_parts import OUTSIDE, AnswersAll, manifest_of_part
from regatta.worker.prepare import prepare
from regatta.worker.status_writer import StatusWriter
from regatta.worker.study_checks import check_image_entries
from tests.fusion_here import (
    CLASSES,
    SIZE,
    fusion_mapping,
    open_prepared,
    run_of,
    train_named,
    write_pictures,
)

EXPERTS = ("resnet-expert-0", "resnet-expert-1")
STILL = {"fusion_train": {"epochs": 0, "batch_size": 24, "warmup_epochs": 0}}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Two trained experts, and a fusion of them that has taken no step."""
    fusion = {**fusion_mapping(pictures)["fusion"], **STILL}
    folder = open_prepared(tmp_path_factory.mktemp("runs"), fusion_mapping(pictures, fusion=fusion))
    train_named(folder, *EXPERTS, "resnet-multiplicative")
    return folder


def in_part(folder: StudyFolder, name: str) -> set[str]:
    store = ImageStore.load(folder.images)
    return {store.ids[row] for row in store.part(name).tolist()}


def copied(folder: StudyFolder, to: Path) -> StudyFolder:
    """The same study elsewhere, its data read and nothing trained."""
    copy = open_study(to, folder.study())
    for path in (folder.manifest, folder.images, folder.data_json):
        shutil.copyfile(path, copy.path / path.name)
    return copy


def test_a_fusion_starts_with_the_trained_weights_of_its_experts_in_order(trained: StudyFolder):
    fused = read_state(run_of(trained, "resnet-multiplicative").model)
    for k, name in enumerate(EXPERTS):
        own = read_state(run_of(trained, name).model)
        held = {
            key.removeprefix(f"experts.{k}."): tensor
            for key, tensor in fused.items()
            if key.startswith(f"experts.{k}.")
        }
        assert set(held) == set(own)
        assert all(torch.equal(held[key], own[key]) for key in own)
    record = read_json(run_of(trained, "resnet-multiplicative").weights)
    assert record["experts"] == [run_of(trained, name).run_id for name in EXPERTS]


def test_no_expert_holds_a_picture_that_fuses_selects_or_judges(trained: StudyFolder):
    manifest = Manifest.load(trained.manifest)
    parts = {name: in_part(trained, name) for name in ("expert-0", "expert-1", "fusion")}
    outside = {s.sample_id for s in manifest.samples if s.split in ("validation", "test")}
    for name in ("expert-0", "expert-1"):
        assert not parts[name] & (parts["fusion"] | outside)
    assert not parts["fusion"] & outside
    # 120 pictures: hold-out 48, half of it validates; of 72 in the pool 40 % are shared.
    assert len(parts["expert-0"] & parts["expert-1"]) == pytest.approx(0.4 * 72, abs=1)
    assert (len(parts["fusion"]), len(manifest.split("validation"))) == (24, 24)


def test_what_is_outside_of_an_experts_part_cannot_reach_its_weights(
    trained: StudyFolder, tmp_path: Path
):
    folder = copied(trained, tmp_path)
    store, manifest = ImageStore.load(folder.images), Manifest.load(folder.manifest)
    seen = in_part(folder, "expert-0") | {s.sample_id for s in manifest.split("validation")}
    noise = torch.Generator().manual_seed(1)
    for row, name in enumerate(store.ids):
        if name not in seen:
            store.images[row].random_(0, 256, generator=noise)
    store.save(folder.images)
    train_named(folder, "resnet-expert-0")
    before, after = (read_state(run_of(f, "resnet-expert-0").model) for f in (trained, folder))
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_an_epoch_of_an_expert_is_its_part_once(trained: StudyFolder):
    for k, name in enumerate(EXPERTS):
        results = read_json(run_of(trained, name).training_results)
        assert results["samples_seen"] == len(in_part(trained, f"expert-{k}"))


def test_experts_of_one_seed_begin_with_different_weights(pictures: Path, tmp_path: Path):
    fusion = {
        **fusion_mapping(pictures)["fusion"],
        "expert_train": {"epochs": 0, "warmup_epochs": 0},
    }
    folder = open_prepared(tmp_path, fusion_mapping(pictures, fusion=fusion))
    train_named(folder, *EXPERTS)
    one, two = (read_state(run_of(folder, name).model)["head.weight"] for name in EXPERTS)
    assert not torch.allclose(one, two)


def test_class_split_experts_know_their_classes_and_their_fusion_all(
    pictures: Path, tmp_path: Path
):
    content = fusion_mapping(pictures, partition={"kind": "noniid"}, fusion={"classes": 4})
    folder = open_prepared(tmp_path, content)
    train_named(folder, *EXPERTS, "resnet-concatenation")
    # Sorted names: east, north | south, west.
    blocks = [sorted(CLASSES)[:2], sorted(CLASSES)[2:]]
    for name, block in zip(EXPERTS, blocks, strict=True):
        run = run_of(folder, name)
        assert read_json(run.model / "config.json")["id2label"] == dict(
            zip(("0", "1"), block, strict=True)
        )
        assert read_state(run.model)["head.weight"].shape[0] == 2
    fused = read_state(run_of(folder, "resnet-concatenation").model)
    assert [fused[f"head.own.{k}.weight"].shape[0] for k in (0, 1)] == [4, 4]
    assert fused["experts.0.head.weight"].shape[0] == 2
    assert fused["head.classifier.weight"].shape[0] == 4


def test_frozen_experts_encode_each_picture_once_for_all_fusion_types(
    pictures: Path, tmp_path: Path
):
    folder = open_prepared(tmp_path, fusion_mapping(pictures, fusion={"frozen": True}))
    train_named(folder, *EXPERTS, "resnet-multiplicative")
    kept = {path: path.stat().st_mtime_ns for path in folder.features.rglob("*.safetensors")}
    assert kept
    train_named(folder, "resnet-concatenation")
    again = {path: path.stat().st_mtime_ns for path in folder.features.rglob("*.safetensors")}
    assert again == kept
    for name in ("resnet-multiplicative", "resnet-concatenation"):
        fused = read_state(run_of(folder, name).model)
        for k, expert in enumerate(EXPERTS):
            own = read_state(run_of(folder, expert).model)
            assert all(torch.equal(fused[f"experts.{k}.{key}"], own[key]) for key in own)


def test_experts_of_other_families_are_brought_to_one_width(pictures: Path, tmp_path: Path):
    mixed = {"families": ["resnet", "densenet"], "mixed": True, "types": ["concatenation"]}
    folder = open_prepared(tmp_path, fusion_mapping(pictures, fusion={**mixed, "baselines": []}))
    train_named(folder)
    fused = read_state(run_of(folder, "mixed-concatenation").model)
    # Tiny features: 64 of resnet, 32 of densenet.
    assert [list(fused[f"head.adapters.{k}.weight"].shape) for k in (0, 1)] == [[64, 64], [64, 32]]


def test_one_cell_and_then_the_whole_train_no_expert_twice(trained: StudyFolder):
    content = json.loads(trained.study().model_dump_json())
    ids = {spec.entry.name: spec.run_id for spec, _ in trained.runs()}
    cell = study_from_mapping(
        {**content, "entries": [e for e in content["entries"] if "stacking" not in e["name"]][:3]}
    )
    folder = open_study(trained.path.parent, cell)
    assert {spec.entry.name: spec.run_id for spec, _ in folder.runs()}.items() <= ids.items()
    weights = [run_of(folder, name).model / "model.safetensors" for name in EXPERTS]
    before = [path.stat().st_mtime_ns for path in weights]
    whole = open_study(trained.path.parent, study_from_mapping(content))
    train_named(whole, *EXPERTS)
    assert [path.stat().st_mtime_ns for path in weights] == before


def test_weights_of_an_expert_with_other_classes_are_refused_by_name(
    trained: StudyFolder, tmp_path: Path, pictures: Path
):
    content = json.loads(trained.study().model_dump_json()) | {"name": "other"}
    content["fusion"] = None
    (entry,) = [e for e in content["entries"] if e["name"] == "resnet-multiplicative"]
    entry["options"]["expert_classes"] = [4, 3]
    folder = open_study(tmp_path, study_from_mapping(content))
    with pytest.raises(ConfigError, match="own head has 3 classes, the fusion has 4"):
        prepare(folder, StopFlag(), StatusWriter([]))


def test_a_lost_expert_is_told_when_its_fusion_starts(trained: StudyFolder, tmp_path: Path):
    folder = copied(trained, tmp_path)
    for name in EXPERTS:
        shutil.copytree(run_of(trained, name).model, run_of(folder, name).model)
    (run_of(folder, EXPERTS[1]).model / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match=EXPERTS[1]):
        train_named(folder, "resnet-multiplicative")


def test_an_entry_on_a_part_keeps_validation_and_test(trained: StudyFolder):
    manifest, store = Manifest.load(trained.manifest), ImageStore.load(trained.images)
    entry = EntrySection(name="x", model="resnet18", part="expert-1", role="expert")
    own = manifest_of_part(manifest, store, entry)
    assert {s.sample_id for s in own.split("train")} == in_part(trained, "expert-1")
    for split in ("validation", "test"):
        assert own.split(split) == manifest.split(split)
    assert own.classes == manifest.classes
    assert manifest_of_part(manifest, store, replace_part(entry, None)) is manifest


def replace_part(entry: EntrySection, part: str | None) -> EntrySection:
    return entry.model_copy(update={"part": part})


def test_labels_of_a_part_of_some_classes_count_among_them(trained: StudyFolder):
    manifest, store = Manifest.load(trained.manifest), ImageStore.load(trained.images)
    rows = [n for n, s in enumerate(manifest.samples) if s.label_name in ("north", "west")]
    training = [n for n in rows if manifest.samples[n].split == "train"]
    store = replace(store, parts={"some": torch.tensor(training)})
    entry = EntrySection(name="x", model="resnet18", part="some", role="expert")
    own = manifest_of_part(manifest, store, entry)
    assert own.classes == ["north", "west"]
    assert {(s.label, s.label_name) for s in own.samples} == {(0, "north"), (1, "west")}
    whole = manifest_of_part(manifest, store, entry.model_copy(update={"role": "contender"}))
    assert whole.classes == manifest.classes


def test_a_part_with_a_picture_that_judges_is_refused_with_its_id(trained: StudyFolder):
    manifest, store = Manifest.load(trained.manifest), ImageStore.load(trained.images)
    judged = next(n for n, s in enumerate(manifest.samples) if s.split == "test")
    store = replace(store, parts={"leaky": torch.tensor([judged])})
    entry = EntrySection(name="x", model="resnet18", part="leaky")
    with pytest.raises(DataError, match=f"1 images.*{store.ids[judged]}"):
        manifest_of_part(manifest, store, entry)


def test_a_part_that_is_not_there_and_another_size_are_told_before_training(
    pictures: Path, tmp_path: Path
):
    content = fusion_mapping(pictures, fusion=None, seeds=[0])
    content["entries"] = [
        {"name": "x", "model": "resnet18", "size": "tiny", "options": {"image_size": SIZE}}
    ]
    folder = open_prepared(tmp_path, content)
    store, manifest = ImageStore.load(folder.images), Manifest.load(folder.manifest)
    content["entries"][0]["part"] = "expert-7"
    with pytest.raises(ConfigError, match="no part 'expert-7'") as caught:
        check_image_entries(study_from_mapping(content), store, manifest)
    assert "expert-1" in str(caught.value.hint)
    content["entries"][0] |= {"part": None, "options": {}}
    with pytest.raises(ConfigError, match=r"32 x 32 pixels, the data has 16 x 16"):
        check_image_entries(study_from_mapping(content), store, manifest)


class Fixed(nn.Module):
    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return images_BCHW.mean(dim=(2, 3))[:, :2]


def test_answers_over_all_classes_stand_in_their_places_and_others_are_never_chosen():
    images = torch.tensor([[1.0, 5.0, 0.0], [-2e3, -3e3, 0.0]])[:, :, None, None]
    module = AnswersAll(Fixed(), ["west", "east"], ["east", "north", "west"])
    scores = module(images)
    assert scores.tolist() == [[5.0, OUTSIDE, 1.0], [-3e3, OUTSIDE, -2e3]]
    assert scores.softmax(dim=1)[:, 1].tolist() == [0.0, 0.0]
