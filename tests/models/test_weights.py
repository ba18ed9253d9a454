"""Weights in and out of files: what is loaded, what is refused, what others can read."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForVideoClassification,
    VideoMAEForVideoClassification,
    VideoMAEImageProcessor,
    VivitImageProcessor,
)

from regatta.config.schema import EntrySection
from regatta.core.errors import ConfigError, DataError, DiskError, EnvironmentFault, WeightsError
from regatta.models.spec import make_spec, resolve_model
from regatta.models.weights import load_checkpoint, load_model, save_model

MODEL_NAMES = ["cnn3d", "timesformer", "videomae", "vivit"]
LIBRARY_NAMES = MODEL_NAMES[1:]
ATTENTION_BIASES = ("query.bias", "value.bias")


@pytest.fixture
def saved(tmp_path: Path, tiny_spec, lively, classes):
    """saved("videomae") -> (folder, module, spec): a lively tiny model on disk."""

    def save(model: str, *, seed: int = 1, **options):
        spec = tiny_spec(model, **options)
        module = lively(spec.build(len(classes)), seed)
        folder = tmp_path / f"{model}-{seed}"
        save_model(folder, module, spec, classes)
        return folder, module, spec

    return save


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)


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
def test_the_library_reads_what_we_wrote(saved, clips, classes, model: str) -> None:
    folder, module, spec = saved(model)
    library, told = AutoModelForVideoClassification.from_pretrained(
        folder, output_loading_info=True
    )
    expected = module(clips(spec))
    found = library.eval()(pixel_values=clips(spec)).logits
    if model == "timesformer":  # the library has no fused attention here
        assert torch.allclose(found, expected, atol=1e-5, rtol=1e-5)
    else:
        assert torch.equal(found, expected)
    assert not told["unexpected_keys"]
    assert [library.config.id2label[i] for i in range(4)] == classes
    assert library.config.label2id["run"] == 2


@pytest.mark.parametrize("model", LIBRARY_NAMES)
def test_we_read_what_the_library_wrote(
    tmp_path: Path, tiny_spec, lively, clips, classes, model: str
) -> None:
    spec = tiny_spec(model)
    library = lively(spec.build(4)).hf
    library.config.id2label = dict(enumerate(classes))
    library.save_pretrained(tmp_path)
    module = spec.build(4).eval()
    report = load_checkpoint(module, spec, str(tmp_path), classes=classes)
    assert torch.equal(module(clips(spec)), library(pixel_values=clips(spec)).logits)
    assert len(report.loaded) == len(module.state_dict())
    assert not report.new_head
    assert not report.interpolated


def publish_videomae(folder: Path) -> None:
    """Rewrite our file with the names of the published VideoMAE checkpoints."""

    def rename(state) -> None:
        for layer in range(4):
            base = f"videomae.encoder.layer.{layer}.attention.attention"
            state[f"{base}.q_bias"] = state.pop(f"{base}.query.bias")
            state[f"{base}.v_bias"] = state.pop(f"{base}.value.bias")

    edit_weights(folder, rename)


def test_published_videomae_biases_are_loaded_and_not_zeroed(
    saved, tiny_spec, clips, classes
) -> None:
    folder, module, spec = saved("videomae")
    publish_videomae(folder)
    loaded = tiny_spec("videomae", seed=8).build(4).eval()
    report = load_checkpoint(loaded, spec, str(folder), classes=classes)
    assert torch.equal(loaded(clips(spec)), module(clips(spec)))
    assert sum(key.endswith(ATTENTION_BIASES) for key in report.loaded) == 2 * 4

    # The mistake this guards against, seen: biases at zero give other answers.
    for name, parameter in module.named_parameters():
        if name.endswith(ATTENTION_BIASES):
            nn.init.zeros_(parameter)
    assert not torch.allclose(loaded(clips(spec)), module(clips(spec)), atol=1e-2)


def test_a_videomae_key_bias_is_left_out_because_softmax_cancels_it(
    saved, tiny_spec, clips, classes
) -> None:
    folder, module, spec = saved("videomae")
    key = "videomae.encoder.layer.{}.attention.attention.key.{}"
    bias = torch.randn(96, generator=torch.Generator().manual_seed(1))
    edit_weights(
        folder, lambda state: state.update({key.format(n, "bias"): bias.clone() for n in range(4)})
    )
    loaded = tiny_spec("videomae").build(4).eval()
    report = load_checkpoint(loaded, spec, str(folder), classes=classes)
    assert report.without_effect == tuple("hf." + key.format(n, "bias") for n in range(4))

    with_bias = VideoMAEForVideoClassification(module.hf.config).eval()
    with_bias.load_state_dict(module.hf.state_dict(), strict=False)
    for n in range(4):
        projection = with_bias.get_submodule(key.format(n, "bias").removesuffix(".bias"))
        projection.register_parameter("bias", nn.Parameter(bias))
    expected = with_bias(pixel_values=clips(spec)).logits
    assert torch.allclose(loaded(clips(spec)), expected, atol=1e-5, rtol=1e-4)


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


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_only_the_head_is_new_for_other_classes(saved, tiny_spec, clips, model: str) -> None:
    folder, module, spec = saved(model)
    fresh = tiny_spec(model, seed=4)
    for names in (["a", "b", "c", "d"], ["a", "b", "c"], None):
        built = fresh.build(len(names or "wxyz"))
        untouched = {k: v.clone() for k, v in built.state_dict().items() if "classifier" in k}
        report = load_checkpoint(built, spec, str(folder), classes=names)
        assert set(report.new_head) == set(untouched)
        after = built.state_dict()
        assert all(torch.equal(after[key], untouched[key]) for key in untouched)
        original = module.state_dict()
        assert all(torch.equal(after[key], original[key]) for key in report.loaded)
        assert set(report.loaded) | set(report.new_head) == set(after)


def test_the_head_is_kept_only_for_the_same_classes_in_the_same_order(
    saved, tiny_spec, classes
) -> None:
    folder, _, spec = saved("videomae")
    kept = load_checkpoint(spec.build(4), spec, str(folder), classes=classes)
    assert kept.new_head == ()
    turned = load_checkpoint(spec.build(4), spec, str(folder), classes=classes[::-1])
    assert turned.new_head == ("hf.classifier.weight", "hf.classifier.bias")


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_every_missing_unexpected_and_reshaped_key_is_listed(saved, classes, model: str) -> None:
    folder, _, spec = saved(model)
    names = sorted(k for k in load_file(folder / "model.safetensors") if "classifier" not in k)
    lost, bent = names[3], names[-1]

    def damage(state) -> None:
        del state[lost]
        state[bent] = torch.zeros(3)
        state["decoder.mask_token"] = torch.zeros(2)

    edit_weights(folder, damage)
    module = spec.build(4)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(module, spec, str(folder), classes=classes)
    told = str(caught.value)
    part = lost.rsplit(".", 2)[-2]
    assert "missing" in told
    assert part in told.split("unexpected")[0]
    assert "decoder.mask_token" in told
    assert "[3] in the file" in told
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_long_lists_of_keys_are_cut_with_the_number_left(saved, classes) -> None:
    folder, _, spec = saved("videomae")
    edit_weights(folder, lambda state: [state.pop(k) for k in list(state) if "layer.1" in k])
    with pytest.raises(WeightsError, match=r"and 3 more"):  # 15 tensors in a layer
        load_checkpoint(spec.build(4), spec, str(folder), classes=classes)


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("videomae", {"num_attention_heads": 6}),
        ("videomae", {"use_mean_pooling": False}),
        ("vivit", {"hidden_act": "relu"}),
        ("vivit", {"tubelet_size": [2, 8, 8]}),
        ("timesformer", {"attention_type": "joint_space_time"}),
        ("cnn3d", {"model_type": "resnet"}),
    ],
)
def test_another_architecture_of_the_same_shapes_is_refused(
    saved, classes, model: str, changes
) -> None:
    folder, _, spec = saved(model)
    edit_json(folder / "config.json", **changes)
    with pytest.raises(WeightsError, match="another architecture") as caught:
        load_checkpoint(spec.build(4), spec, str(folder), classes=classes)
    assert next(iter(changes)) in str(caught.value)


def test_the_published_name_of_vivits_activation_is_the_same_architecture(saved, classes) -> None:
    folder, _, spec = saved("vivit")
    edit_json(folder / "config.json", hidden_act="gelu_fast")
    assert load_checkpoint(spec.build(4), spec, str(folder), classes=classes).loaded


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        ("timesformer", {"frames": 16}, ["8 -> 16 time steps"]),
        ("timesformer", {"image_size": 48}, ["4x4 -> 6x6 patches"]),
        ("timesformer", {"frames": 4, "image_size": 16}, ["4x4 -> 2x2", "8 -> 4 time"]),
        ("videomae", {"frames": 8}, ["computed anew: 8 -> 4 time steps"]),
        ("videomae", {"image_size": 48}, ["computed anew: 4x4 -> 6x6 patches"]),
        ("vivit", {"frames": 16}, ["8 -> 4 time steps"]),
        ("vivit", {"image_size": 48, "frames": 40}, ["8 -> 10 time steps, 4x4 -> 6x6 patches"]),
    ],
)
def test_other_frames_and_sizes_are_interpolated_and_reported(
    saved, tiny_spec, clips, classes, tmp_path: Path, model: str, options, told
) -> None:
    folder, _, _ = saved(model)
    spec = tiny_spec(model, **options)
    module = spec.build(4).eval()
    report = load_checkpoint(module, spec, str(folder), classes=classes)
    assert len(report.interpolated) == len(told)
    assert all(any(part in what for what in report.interpolated.values()) for part in told)
    assert "interpolated" in report.summary()
    assert module(clips(spec)).shape == (2, 4)
    # What was fitted is what others get: nothing is lost on the way through the files.
    save_model(tmp_path / "fitted", module, spec, classes)
    library = AutoModelForVideoClassification.from_pretrained(tmp_path / "fitted").eval()
    expected = module(clips(spec))
    assert torch.allclose(library(pixel_values=clips(spec)).logits, expected, atol=1e-5, rtol=1e-5)


def test_a_still_clip_means_the_same_to_timesformer_at_twice_the_frames(
    saved, tiny_spec, classes
) -> None:
    # With level time embeddings all frames of a still clip are equal: their number cannot matter.
    folder, module, _ = saved("timesformer")
    level = torch.randn(1, 1, 96, generator=torch.Generator().manual_seed(2))
    edit_weights(
        folder,
        lambda state: state.update(
            {"timesformer.embeddings.time_embeddings": level.repeat(1, 8, 1)}
        ),
    )
    module.hf.timesformer.embeddings.time_embeddings.data.copy_(level)
    longer = tiny_spec("timesformer", frames=16)
    fitted = longer.build(4).eval()
    load_checkpoint(fitted, longer, str(folder), classes=classes)
    picture = torch.randn(1, 1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(
        fitted(picture.expand(1, 16, 3, 32, 32)),
        module(picture.expand(1, 8, 3, 32, 32)),
        atol=1e-4,
        rtol=1e-4,
    )


def test_random_weights_are_told_as_such(tiny_spec) -> None:
    spec = tiny_spec("vivit")
    module = spec.build(4)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    report = load_checkpoint(module, spec, "none")
    assert report.source == "none"
    assert report.loaded == ()
    assert report.summary() == "random weights, nothing loaded"
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_default_at_a_size_without_one_is_refused_when_loading_too(tiny_spec) -> None:
    spec = tiny_spec("videomae")
    with pytest.raises(ConfigError, match="no published checkpoint"):
        load_checkpoint(spec.build(4), spec, "default")


def test_the_report_is_json_and_names_its_source(saved, tiny_spec) -> None:
    folder, _, spec = saved("timesformer")
    report = load_checkpoint(spec.build(4), spec, str(folder))
    told = json.loads(json.dumps(report.to_dict()))
    assert told["source"] == str(folder)
    assert set(told) >= {
        "loaded",
        "new_head",
        "interpolated",
        "missing",
        "unexpected",
        "reshaped",
    }
    assert "new head (hf.classifier.weight, hf.classifier.bias)" in report.summary()


# --- normalisation


def test_a_checkpoints_own_normalisation_is_used(saved) -> None:
    folder, _, _ = saved("videomae")
    edit_json(folder / "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3], image_std=[1, 2, 4])
    entry = EntrySection(name="e", model="videomae", size="tiny", checkpoint=str(folder))
    spec = resolve_model(entry, 4, seed=0)
    assert spec.pretrained
    assert (spec.mean, spec.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
    assert load_checkpoint(spec.build(4), spec, str(folder)).loaded


def test_clips_normalised_otherwise_than_in_training_are_refused(saved, tiny_spec) -> None:
    folder, _, spec = saved("vivit")
    edit_json(folder / "preprocessor_config.json", image_mean=[0.45] * 3)
    with pytest.raises(WeightsError, match="trained with mean"):
        load_checkpoint(spec.build(4), spec, str(folder))


def test_without_a_processor_file_the_published_normalisation_stands(saved) -> None:
    folder, _, spec = saved("timesformer")
    (folder / "preprocessor_config.json").unlink()
    entry = EntrySection(name="e", model="timesformer", size="tiny", checkpoint=str(folder))
    assert resolve_model(entry, 4, seed=0).mean == spec.mean


@pytest.mark.parametrize(
    "changes",
    [
        {"image_mean": [0.5, 0.5]},
        {"image_std": [1, 1, 0]},
        {"image_mean": "x"},
        {"image_std": None},
    ],
)
def test_an_unusable_processor_file_is_refused(saved, changes) -> None:
    folder, _, _ = saved("videomae")
    edit_json(folder / "preprocessor_config.json", **changes)
    entry = EntrySection(name="e", model="videomae", size="tiny", checkpoint=str(folder))
    with pytest.raises(WeightsError, match="image_mean"):
        resolve_model(entry, 4, seed=0)


@pytest.mark.parametrize(
    ("model", "processor"),
    [
        ("timesformer", VideoMAEImageProcessor),
        ("videomae", VideoMAEImageProcessor),
        ("vivit", VivitImageProcessor),
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


# --- files


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
    assert "save_pretrained" in str(caught.value.hint)


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


def test_nan_weights_are_refused_with_their_keys(saved) -> None:
    folder, _, spec = saved("cnn3d")
    edit_weights(folder, lambda state: state["stem.weight"].view(-1)[7].fill_(float("nan")))
    with pytest.raises(WeightsError, match=r"NaN or infinite weights: stem\.weight"):
        load_checkpoint(spec.build(4), spec, str(folder))


def test_two_stored_names_for_one_tensor_are_refused(saved) -> None:
    folder, _, spec = saved("videomae")
    key = "videomae.encoder.layer.0.attention.attention.q_bias"
    edit_weights(folder, lambda state: state.update({key: torch.zeros(96)}))
    with pytest.raises(WeightsError, match="two tensors"):
        load_checkpoint(spec.build(4), spec, str(folder))


def test_half_precision_checkpoints_load_into_a_full_precision_model(saved, classes) -> None:
    folder, module, spec = saved("vivit")
    edit_weights(folder, lambda state: state.update({k: v.half() for k, v in state.items()}))
    loaded = spec.build(4)
    load_checkpoint(loaded, spec, str(folder), classes=classes)
    for key, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, module.state_dict()[key].half().float())


@pytest.mark.parametrize(
    "changes",
    [{"regatta": None}, {"regatta": {"name": "videomae"}}, {"regatta": [1]}],
)
def test_a_foreign_folder_is_not_taken_for_our_own(saved, changes) -> None:
    folder, _, _ = saved("videomae")
    edit_json(folder / "config.json", **changes)
    with pytest.raises(WeightsError, match="not written by Regatta"):
        load_model(folder)


def test_class_numbers_with_a_gap_are_refused(saved) -> None:
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
    for name in ("model.safetensors", "config.json"):
        wrapped_bytes = (tmp_path / "wrapped" / name).read_bytes()
        assert wrapped_bytes == (tmp_path / "plain" / name).read_bytes()
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


# --- the hub


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
