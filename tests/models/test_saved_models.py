"""What we write: read back bit-equal, by the library too, whole or not at all."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModelForVideoClassification,
    VideoMAEImageProcessor,
    VivitImageProcessor,
)

from regatta.core.errors import DataError, DiskError, WeightsError
from regatta.models.weights import load_checkpoint, load_model, save_model

MODEL_NAMES = ["cnn3d", "timesformer", "videomae", "vivit", "vjepa2"]
LIBRARY_NAMES = MODEL_NAMES[1:]


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_a_saved_model_comes_back_bit_equal(saved, clips, classes, model: str) -> None:
    folder, module, spec = saved(model, frames=4, dropout=0.1)
    again, spec_again, classes_again = load_model(folder)
    assert torch.equal(again(clips(spec)), module(clips(spec)))
    assert classes_again == classes
    for field in ("name", "frames", "image_size", "mean", "std", "resize", "config"):
        assert getattr(spec_again, field) == getattr(spec, field)
    assert not again.training
    assert sorted(os.listdir(folder)) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]


def test_loading_leaves_the_global_generator_as_it_was(saved) -> None:
    folder, _, _ = saved("videomae")
    torch.manual_seed(9)
    before = torch.get_rng_state()
    load_model(folder)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("model", LIBRARY_NAMES)
def test_the_library_reads_what_we_wrote(saved, clips, classes, library_logits, model: str) -> None:
    folder, module, spec = saved(model)
    library, told = AutoModelForVideoClassification.from_pretrained(
        folder, output_loading_info=True
    )
    expected = module(clips(spec))
    found = library_logits(library.eval(), clips(spec))
    if model == "timesformer":  # the library has no fused attention here
        assert torch.allclose(found, expected, atol=1e-5, rtol=1e-5)
    else:
        assert torch.equal(found, expected)
    assert not told["unexpected_keys"]
    # Older releases give VideoMAE's keys a bias; nothing else may be drawn at random.
    assert all(key.endswith("attention.key.bias") for key in told["missing_keys"])
    assert [library.config.id2label[i] for i in range(4)] == classes
    assert library.config.label2id["run"] == 2


def test_vivit_files_carry_the_published_names(saved) -> None:
    # Keys as in google/vivit-b-16x2-kinetics400.
    keys = set(load_file(saved("vivit")[0] / "model.safetensors"))
    layer = "vivit.encoder.layer.3"
    assert keys >= {
        f"{layer}.attention.attention.query.weight",
        f"{layer}.attention.attention.key.bias",
        f"{layer}.attention.attention.value.weight",
        f"{layer}.attention.output.dense.weight",
        f"{layer}.intermediate.dense.weight",
        f"{layer}.output.dense.bias",
        f"{layer}.layernorm_before.weight",
        "vivit.embeddings.position_embeddings",
        "vivit.embeddings.patch_embeddings.projection.weight",
        "vivit.layernorm.weight",
        "classifier.weight",
    }


@pytest.mark.parametrize(
    ("model", "processor"),
    [
        ("timesformer", VideoMAEImageProcessor),
        ("videomae", VideoMAEImageProcessor),
        ("vivit", VivitImageProcessor),
        ("vjepa2", VideoMAEImageProcessor),
    ],
)
def test_the_librarys_processor_makes_the_clips_that_our_pipeline_makes(
    saved, model: str, processor
) -> None:
    folder, _, spec = saved(model)
    frames = np.random.default_rng(0).integers(0, 256, (spec.frames, 32, 32, 3), dtype=np.uint8)
    made = processor.from_pretrained(folder)(list(frames), return_tensors="pt")["pixel_values"]
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (spec.mean, spec.std))
    assert torch.allclose(made[0], (pixels - mean) / std, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{"regatta": None}, {"regatta": {"name": "videomae"}}, {"regatta": [1]}],
)
def test_a_foreign_folder_is_not_taken_for_our_own(saved, changes, edit_json) -> None:
    folder, _, _ = saved("videomae")
    edit_json(folder / "config.json", **changes)
    with pytest.raises(WeightsError, match="not written by Regatta"):
        load_model(folder)


def test_class_numbers_with_a_gap_are_refused(saved, edit_json) -> None:
    folder, _, _ = saved("videomae")
    edit_json(folder / "config.json", id2label={"0": "a", "2": "b"})
    with pytest.raises(WeightsError, match="id2label"):
        load_model(folder)


def test_saved_keys_carry_no_trace_of_compile_or_ddp(
    tmp_path: Path, tiny_spec, lively, clips, classes
) -> None:
    spec = tiny_spec("cnn3d")
    module = lively(spec.build(4))
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(torch.compile(module, backend="eager"))
        save_model(tmp_path / "wrapped", wrapped, spec, classes)
        report = load_checkpoint(wrapped, spec, str(tmp_path / "wrapped"), classes=classes)
    finally:
        torch.distributed.destroy_process_group()
    save_model(tmp_path / "plain", module, spec, classes)
    module.blocks[1] = torch.compile(module.blocks[1], backend="eager")
    save_model(tmp_path / "one-block", module, spec, classes)
    for name in ("model.safetensors", "config.json"):
        plain_bytes = (tmp_path / "plain" / name).read_bytes()
        assert (tmp_path / "wrapped" / name).read_bytes() == plain_bytes
        assert (tmp_path / "one-block" / name).read_bytes() == plain_bytes
    assert len(report.loaded) == len(module.state_dict())


def test_saving_again_replaces_the_older_model_and_leaves_no_scraps(
    saved, lively, clips, classes
) -> None:
    folder, module, spec = saved("videomae")
    lively(module, 5)
    save_model(folder, module, spec, classes, extra={"epoch": 3, "accuracy": 0.5})
    again, _, _ = load_model(folder)
    assert torch.equal(again(clips(spec)), module(clips(spec)))
    assert len(os.listdir(folder)) == 3
    content = json.loads((folder / "config.json").read_text())
    assert content["regatta"]["extra"] == {"epoch": 3, "accuracy": 0.5}


def test_a_write_that_fails_half_way_leaves_the_older_model_whole(
    saved, lively, clips, classes
) -> None:
    folder, module, spec = saved("videomae")
    expected = module(clips(spec))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(DiskError):
            save_model(folder, lively(module, 6), spec, classes)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert torch.equal(load_model(folder)[0](clips(spec)), expected)
    assert len(os.listdir(folder)) == 3


def test_class_names_must_differ_and_match_the_head(saved, tmp_path: Path) -> None:
    _, module, spec = saved("videomae")
    with pytest.raises(DataError, match="5 class names for a head with 4"):
        save_model(tmp_path / "x", module, spec, list("abcde"))
    with pytest.raises(DataError, match="must differ"):
        save_model(tmp_path / "x", module, spec, ["a", "b", "c", "c"])
    assert not (tmp_path / "x").exists()
