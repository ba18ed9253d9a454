"""Every key of a checkpoint: loaded, new, interpolated, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModelForVideoClassification,
    VideoMAEForVideoClassification,
)

from regatta.core.errors import ConfigError, WeightsError
from regatta.models.weights import load_checkpoint, save_model

MODEL_NAMES = ["cnn3d", "timesformer", "videomae", "vivit", "vjepa2"]
LIBRARY_NAMES = MODEL_NAMES[1:]
ATTENTION_BIASES = ("query.bias", "value.bias")


@pytest.mark.parametrize("model", LIBRARY_NAMES)
def test_we_read_what_the_library_wrote(
    tmp_path: Path, tiny_spec, lively, clips, classes, library_logits, model: str
) -> None:
    spec = tiny_spec(model)
    library = lively(spec.build(4)).hf
    library.config.id2label = dict(enumerate(classes))
    library.save_pretrained(tmp_path)
    module = spec.build(4).eval()
    report = load_checkpoint(module, spec, str(tmp_path), classes=classes)
    assert torch.equal(module(clips(spec)), library_logits(library, clips(spec)))
    assert len(report.loaded) == len(module.state_dict())
    assert not report.new_head
    assert not report.interpolated


def publish_biases(state) -> None:
    """Rename the biases of our file as in the published VideoMAE checkpoints."""
    for layer in range(4):
        base = f"videomae.encoder.layer.{layer}.attention.attention"
        state[f"{base}.q_bias"] = state.pop(f"{base}.query.bias")
        state[f"{base}.v_bias"] = state.pop(f"{base}.value.bias")


def test_published_videomae_biases_are_loaded_and_not_zeroed(
    saved, tiny_spec, clips, classes, edit_weights
) -> None:
    folder, module, spec = saved("videomae")
    edit_weights(folder, publish_biases)
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
    saved, tiny_spec, clips, classes, edit_weights
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


@pytest.mark.fault(27)
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


@pytest.mark.fault(27)
@pytest.mark.parametrize("model", MODEL_NAMES)
def test_every_missing_unexpected_and_reshaped_key_is_listed(
    saved, classes, model: str, edit_weights
) -> None:
    folder, _, spec = saved(model)
    stored = load_file(folder / "model.safetensors")
    names = sorted(k for k in stored if "classifier" not in k and "predictor" not in k)
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


def test_long_lists_of_keys_are_cut_with_the_number_left(saved, classes, edit_weights) -> None:
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
        ("vjepa2", {"num_attention_heads": 6}),
        ("vjepa2", {"num_pooler_layers": 2}),
        ("cnn3d", {"model_type": "resnet"}),
    ],
)
def test_another_architecture_of_the_same_shapes_is_refused(
    saved, classes, model: str, changes, edit_json
) -> None:
    folder, _, spec = saved(model)
    edit_json(folder / "config.json", **changes)
    with pytest.raises(WeightsError, match="another architecture") as caught:
        load_checkpoint(spec.build(4), spec, str(folder), classes=classes)
    assert next(iter(changes)) in str(caught.value)


def test_the_published_name_of_vivits_activation_is_the_same_architecture(
    saved, classes, edit_json
) -> None:
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
        ("vjepa2", {"image_size": 48, "frames": 32}, ["8 -> 16 time steps, 4x4 -> 6x6 patches"]),
    ],
)
def test_other_frames_and_sizes_are_interpolated_and_reported(
    saved, tiny_spec, clips, classes, library_logits, tmp_path: Path, model: str, options, told
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
    found = library_logits(library, clips(spec))
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-5)


def test_a_still_clip_means_the_same_to_timesformer_at_twice_the_frames(
    saved, tiny_spec, classes, edit_weights
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
    assert f"{report}" == report.summary()
