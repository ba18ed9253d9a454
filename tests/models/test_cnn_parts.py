"""What all convolutional entries with batch norm promise: batches, memory, files."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from regatta.core.errors import ConfigError, WeightsError
from regatta.models.parameters import parameter_groups
from regatta.models.spec import enable_gradient_checkpointing
from regatta.models.weights import load_checkpoint, load_model, save_model
from tests.models.cnn_reference import shake

HEADS = {
    "r3d18": "fc",
    "r2plus1d18": "fc",
    "mc3-18": "fc",
    "slowfast-r50": "blocks.6.proj",
    "x3d-xs": "blocks.5.proj",
}
NAMES = list(HEADS)


def saved_numbers(module: nn.Module, video: torch.Tensor, labels: torch.Tensor) -> int:
    """Numbers that the forward pass keeps for the backward pass, which is then run."""
    sizes: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = F.cross_entropy(module(video), labels)
    kept = sum(sizes)
    loss.backward()
    return kept


@pytest.mark.parametrize("model", NAMES)
def test_judged_logits_do_not_depend_on_the_clips_beside(tiny_spec, clips, model: str) -> None:
    # In judging, statistics come from training: short and filled-up batches change no bit.
    spec = tiny_spec(model)
    module = shake(spec.build(4))
    batch = clips(spec, batch=4)
    with torch.no_grad():
        expected = module(batch)
        others = 1e3 * clips(spec, batch=4, seed=1)
        others[2] = batch[1]
        assert torch.equal(module(others)[2], expected[1])
        batch[0] = float("nan")
        assert torch.equal(module(batch)[1:], expected[1:])


@pytest.mark.parametrize("model", NAMES)
def test_recomputing_blocks_changes_neither_gradients_nor_statistics(
    tiny_spec, clips, model: str
) -> None:
    # Statistics must see a micro-batch once, though recomputing runs every block twice.
    spec = tiny_spec(model, dropout=0.0)
    plain, recomputing = (shake(spec.build(4)).train() for _ in range(2))
    enable_gradient_checkpointing(recomputing)
    video, labels = clips(spec), torch.tensor([1, 2])
    assert saved_numbers(recomputing, video, labels) < saved_numbers(plain, video, labels)
    for (name, a), b in zip(plain.named_parameters(), recomputing.parameters(), strict=True):
        assert a.grad is not None, name
        assert b.grad is not None, name
        assert torch.equal(a.grad, b.grad), name
    before = shake(spec.build(4)).state_dict()
    after = recomputing.state_dict()
    for key, buffer in plain.named_buffers():
        assert torch.equal(recomputing.get_buffer(key), buffer), key
        if key.endswith("num_batches_tracked"):
            assert buffer == before[key] + 1
        elif key.endswith("running_var"):
            assert not torch.equal(after[key], before[key])


@pytest.mark.slow
def test_recomputing_counts_once_when_compiled_too(tiny_spec, clips) -> None:
    spec = tiny_spec("r3d18", frames=2)
    plain, recomputing = (shake(spec.build(4)).train() for _ in range(2))
    enable_gradient_checkpointing(recomputing)
    compiled = torch.compile(recomputing, backend="aot_eager")
    plain(clips(spec)).square().sum().backward()
    compiled(clips(spec)).square().sum().backward()
    for key, buffer in plain.named_buffers():
        torch.testing.assert_close(recomputing.get_buffer(key), buffer)
    for a, b in zip(plain.parameters(), recomputing.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", NAMES)
def test_every_parameter_gets_a_gradient(tiny_spec, clips, model: str) -> None:
    # A parameter without one makes distributed training wait for ever or fail.
    spec = tiny_spec(model, dropout=0.0)
    module = shake(spec.build(4)).train()
    F.cross_entropy(module(clips(spec)), torch.tensor([0, 3])).backward()
    without = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("model", NAMES)
def test_norms_and_biases_are_not_decayed(tiny_spec, model: str) -> None:
    spec = tiny_spec(model)
    module = spec.build(4)
    groups = parameter_groups(module, spec, lr=1.0, head_lr_factor=10.0, weight_decay=0.1)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(decay) == sum(len(group["params"]) for group in groups)
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            norm = isinstance(part, nn.BatchNorm3d)
            assert decay[id(parameter)] == (0.0 if norm or name == "bias" else 0.1)
    heads = {id(p) for g in groups if g["name"].startswith("head") for p in g["params"]}
    assert heads == {id(p) for p in module.get_submodule(HEADS[model]).parameters()}


@pytest.mark.parametrize("model", NAMES)
def test_a_saved_model_comes_back_bit_equal_with_its_statistics(
    tmp_path: Path, tiny_spec, clips, classes, model: str
) -> None:
    spec = tiny_spec(model, dropout=0.25)
    module = shake(spec.build(4))
    save_model(tmp_path, module, spec, classes)
    again, spec_again, classes_again = load_model(tmp_path)
    assert not again.training
    assert (spec_again.config, classes_again) == (spec.config, classes)
    for key, tensor in module.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    assert torch.equal(again(clips(spec)), module(clips(spec)))


@pytest.mark.parametrize("model", NAMES)
def test_a_bare_published_state_dict_loads_key_by_key(
    tmp_path: Path, tiny_spec, model: str
) -> None:
    # Published state dicts stand alone: no config.json, and a classifier of other classes.
    spec = tiny_spec(model)
    published = shake(spec.build(400)).state_dict()
    save_file(published, tmp_path / "model.safetensors")
    module = tiny_spec(model, seed=5).build(4)
    own = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    report = load_checkpoint(module, spec, str(tmp_path), classes=list("abcd"))
    head = {f"{HEADS[model]}.weight", f"{HEADS[model]}.bias"}
    assert set(report.new_head) == head
    assert set(report.loaded) == set(published) - head
    for key, tensor in module.state_dict().items():
        assert torch.equal(tensor, (own if key in head else published)[key]), key


def test_labels_beside_a_bare_state_dict_keep_its_classifier(
    tmp_path: Path, tiny_spec, clips, classes
) -> None:
    spec = tiny_spec("r3d18")
    published = shake(spec.build(4))
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    labels = ", ".join(f'"{place}": "{name}"' for place, name in enumerate(classes))
    (tmp_path / "config.json").write_text(f'{{"id2label": {{{labels}}}}}')
    module = tiny_spec("r3d18", seed=5).build(4).eval()
    report = load_checkpoint(module, spec, str(tmp_path), classes=classes)
    assert report.new_head == ()
    assert torch.equal(module(clips(spec)), published(clips(spec)))


def test_a_state_dict_that_does_not_fit_is_refused_by_its_keys(tmp_path: Path, tiny_spec) -> None:
    spec = tiny_spec("r3d18")
    state = spec.build(400).state_dict()
    save_file(state, tmp_path / "model.safetensors")
    flat = tiny_spec("mc3-18")
    with pytest.raises(WeightsError, match=r"reshaped: layer2\.0\.conv1\.0\.weight \(\[32, 16, 3"):
        load_checkpoint(flat.build(4), flat, str(tmp_path))
    split = tiny_spec("r2plus1d18")
    with pytest.raises(WeightsError, match=r"missing: layer1\.0\.conv1\.0\.0\.weight"):
        load_checkpoint(split.build(4), split, str(tmp_path))
    lost = {key: tensor for key, tensor in state.items() if key != "layer3.0.conv2.1.running_var"}
    save_file(lost, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"missing: layer3\.0\.conv2\.1\.running_var;?"):
        load_checkpoint(spec.build(4), spec, str(tmp_path))


def test_a_folder_with_a_pickle_alone_is_refused_unopened(tmp_path: Path, tiny_spec) -> None:
    spec = tiny_spec("r3d18")
    torch.save(spec.build(4).state_dict(), tmp_path / "r3d_18.pth")
    with pytest.raises(WeightsError, match=r"r3d_18\.pth, which could run code") as refused:
        load_checkpoint(spec.build(4), spec, str(tmp_path))
    assert "regatta data import-weights r3d_18.pth" in str(refused.value.hint)


@pytest.mark.slow
def test_the_line_in_the_docs_converts_a_published_file(tmp_path: Path, tiny_spec) -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    line = next(line for line in page.splitlines() if "data import-weights" in line)
    _, *arguments = shlex.split(line)
    spec = tiny_spec("x3d-s")
    published = spec.build(400)
    # As PyTorchVideo wraps its weights.
    name = next(word for word in arguments if word.endswith(".pth"))
    torch.save({"model_state": published.state_dict(), "cfg": "text"}, tmp_path / name)
    subprocess.run([sys.executable, "-m", "regatta", *arguments], check=True, cwd=tmp_path)
    folder = tmp_path / arguments[arguments.index("--to") + 1]
    report = load_checkpoint(spec.build(4), spec, str(folder))
    assert set(report.loaded) | set(report.new_head) == set(published.state_dict())


def test_a_transformer_without_config_is_still_refused(saved, classes) -> None:
    # Its shapes do not tell the number of heads.
    folder, module, spec = saved("videomae")
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_checkpoint(module, spec, str(folder), classes=classes)


@pytest.mark.parametrize("model", NAMES)
def test_there_is_no_default_checkpoint_to_guess(tiny_spec, model: str) -> None:
    with pytest.raises(ConfigError, match=f"{model} has no published checkpoint") as refused:
        tiny_spec(model, checkpoint="default")
    assert "give a folder" in str(refused.value.hint)


@pytest.mark.parametrize("model", NAMES)
def test_dropout_acts_in_training_and_rests_in_judging(tiny_spec, clips, model: str) -> None:
    module, video = shake(tiny_spec(model, dropout=0.5).build(4)), clips(tiny_spec(model))
    assert torch.equal(module(video), module(video))
    module.train()
    assert not torch.equal(module(video), module(video))


@pytest.mark.parametrize("model", NAMES)
def test_a_tiny_model_learns_four_clips_within_seconds(tiny_spec, clips, model: str) -> None:
    spec = tiny_spec(model, frames=8, dropout=0.0)
    module = spec.build(4).train()
    video, labels = clips(spec, batch=4), torch.arange(4)
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    for _ in range(25):
        optimizer.zero_grad()
        F.cross_entropy(module(video), labels).backward()
        optimizer.step()
    assert (module.eval()(video).argmax(dim=1) == labels).all()


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("r3d18", {"frames": 1, "image_size": 17}),
        ("r2plus1d18", {"frames": 7, "image_size": 45}),
        ("mc3-18", {"frames": 3, "image_size": 16}),
        ("slowfast-r50", {"frames": 12, "image_size": 50}),
        ("x3d-m", {"frames": 5, "image_size": 20}),
    ],
)
def test_one_odd_clip_can_be_trained_on(tiny_spec, clips, model: str, options) -> None:
    # The last micro-batch of an epoch may hold a single clip.
    spec = tiny_spec(model, **options)
    logits = spec.build(4).train()(clips(spec, batch=1))
    assert logits.shape == (1, 4)
    assert torch.isfinite(logits).all()


def test_files_carry_nothing_but_published_names(tmp_path: Path, tiny_spec, classes) -> None:
    spec = tiny_spec("slowfast-r50")
    module = spec.build(4)
    save_model(tmp_path, module, spec, classes)
    assert set(load_file(tmp_path / "model.safetensors")) == set(module.state_dict())
    assert "slow_frames" not in module.state_dict()
