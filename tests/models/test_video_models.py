"""What the video models compute, against the library's own forward and laws of a classifier."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    TimesformerConfig,
    TimesformerForVideoClassification,
    VivitConfig,
    VivitForVideoClassification,
)

from regatta.models.attention import SdpaSelfAttention
from regatta.models.spec import enable_gradient_checkpointing

MODEL_NAMES = ["cnn3d", "timesformer", "videomae", "vivit", "vjepa2"]


def library_timesformer(spec) -> TimesformerForVideoClassification:
    settings: dict[str, Any] = {
        "image_size": spec.image_size,
        "patch_size": 8,
        "num_frames": spec.frames,
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_labels": 4,
    }
    return TimesformerForVideoClassification(TimesformerConfig(**settings))


class WrittenOutAttention(torch.nn.Module):
    """The parts of a library attention module that the fused one takes over."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.qkv = torch.nn.Linear(width, 3 * width)
        self.attn_drop = torch.nn.Dropout(dropout)
        self.num_heads = num_heads


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_clips_give_one_finite_row_of_logits_each(tiny_spec, clips, model: str) -> None:
    spec = tiny_spec(model)
    logits = spec.build(7).eval()(clips(spec, batch=3))
    assert logits.shape == (3, 7)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_every_parameter_gets_a_gradient(tiny_spec, clips, lively, model: str) -> None:
    # A parameter without one makes distributed training wait for ever or fail.
    spec = tiny_spec(model)
    module = lively(spec.build(4)).train()
    F.cross_entropy(module(clips(spec)), torch.tensor([0, 3])).backward()
    without = [
        name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum()
    ]
    assert without == []


def test_fused_timesformer_attention_equals_the_librarys_forward(tiny_spec, clips, lively) -> None:
    spec = tiny_spec("timesformer")
    ours = lively(spec.build(4))
    library = library_timesformer(spec).eval()
    library.load_state_dict(ours.hf.state_dict(), strict=True)
    video = clips(spec, batch=3)
    expected, found = library(pixel_values=video).logits, ours(video)
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-5)

    expected.square().sum().backward()
    found.square().sum().backward()
    for name, parameter in library.named_parameters():
        gradient = ours.hf.get_parameter(name).grad
        assert parameter.grad is not None
        assert torch.allclose(gradient, parameter.grad, atol=1e-4, rtol=1e-4), name


def test_fused_attention_still_gives_the_weights_when_asked(tiny_spec, clips, lively) -> None:
    spec = tiny_spec("timesformer")
    ours = lively(spec.build(4))
    library = library_timesformer(spec).eval()
    library.load_state_dict(ours.hf.state_dict(), strict=True)
    video = clips(spec)
    expected = library(pixel_values=video, output_attentions=True).attentions
    found = ours.hf(pixel_values=video, output_attentions=True).attentions
    assert len(found) == len(expected) == 4
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))


def test_no_written_out_attention_is_left_in_timesformer(tiny_spec) -> None:
    module = tiny_spec("timesformer").build(4)
    kinds = [type(m).__name__ for m in module.modules()]
    assert kinds.count("SdpaSelfAttention") == 2 * 4
    assert "TimesformerSelfAttention" not in kinds


def test_attention_dropout_acts_in_training_only() -> None:
    attention = SdpaSelfAttention(WrittenOutAttention(8, num_heads=2, dropout=0.5))
    tokens = torch.randn(2, 5, 8)
    assert not torch.equal(attention(tokens)[0], attention(tokens)[0])
    attention.eval()
    assert torch.equal(attention(tokens)[0], attention(tokens)[0])


def test_vivit_equals_the_librarys_forward_with_its_published_activation(
    tiny_spec, clips, lively
) -> None:
    spec = tiny_spec("vivit")
    ours = lively(spec.build(4))
    config = VivitConfig(**{**ours.hf.config.to_dict(), "hidden_act": "gelu_fast"})
    library = VivitForVideoClassification(config).eval()
    library.load_state_dict(ours.hf.state_dict(), strict=True)
    video = clips(spec)
    assert torch.allclose(ours(video), library(pixel_values=video).logits, atol=1e-5, rtol=1e-5)


def test_videomae_positions_are_the_sin_cos_table_and_no_part_of_the_files(tiny_spec) -> None:
    module = tiny_spec("videomae").build(4)
    table = module.hf.videomae.embeddings.position_embeddings
    assert table.shape == (1, 8 * 4 * 4, 96)
    for position, channel in [(0, 0), (0, 1), (1, 0), (17, 6), (127, 95)]:
        angle = position / 10_000 ** (2 * (channel // 2) / 96)
        expected = math.cos(angle) if channel % 2 else math.sin(angle)
        assert table[0, position, channel].item() == pytest.approx(expected, abs=1e-6)
    assert not [key for key in module.state_dict() if "position" in key]
    # Moves with the module, so that no forward pass copies it to the device.
    assert module.to("meta").hf.videomae.embeddings.position_embeddings.is_meta


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_a_clips_logits_do_not_depend_on_the_clips_beside_it(
    tiny_spec, clips, lively, model: str
) -> None:
    # Judging fills batches up and groups clips freely: bits, not tolerances.
    spec = tiny_spec(model)
    module = lively(spec.build(4))
    batch = clips(spec, batch=8)
    with torch.no_grad():
        expected = module(batch)
        for row, scale in [(0, 1.0), (3, 1e3), (7, 0.0)]:
            others = scale * clips(spec, batch=8, seed=row + 1)
            others[row] = batch[row]
            assert torch.equal(module(others)[row], expected[row])
            place = (row + 5) % 8
            moved = scale * clips(spec, batch=8, seed=row + 2)
            moved[place] = batch[row]
            assert torch.equal(module(moved)[place], expected[row])


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_a_diverged_neighbour_does_not_spread(tiny_spec, clips, lively, model: str) -> None:
    spec = tiny_spec(model)
    module = lively(spec.build(4))
    batch = clips(spec, batch=4)
    with torch.no_grad():
        expected = module(batch)
        batch[1] = float("nan")
        found = module(batch)
    assert torch.equal(found[[0, 2, 3]], expected[[0, 2, 3]])
    assert found[1].isnan().all()


def test_cnn3d_training_does_not_depend_on_how_a_batch_is_split(tiny_spec, clips, lively) -> None:
    # With BatchNorm, accumulation over two halves would be another experiment.
    spec = tiny_spec("cnn3d")
    whole = lively(spec.build(4)).train()
    halves = copy.deepcopy(whole)
    video, labels = clips(spec, batch=4), torch.tensor([0, 1, 2, 3])
    F.cross_entropy(whole(video), labels).backward()
    for part in (slice(0, 2), slice(2, 4)):
        (F.cross_entropy(halves(video[part]), labels[part]) / 2).backward()
    for a, b in zip(whole.parameters(), halves.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-5 * a.grad.abs().max().item())


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_gradient_checkpointing_gives_the_same_gradients(tiny_spec, clips, model: str) -> None:
    spec = tiny_spec(model)
    plain = spec.build(4).train()
    recomputing = spec.build(4).train()
    enable_gradient_checkpointing(recomputing)
    video, labels = clips(spec), torch.tensor([1, 2])
    F.cross_entropy(plain(video), labels).backward()
    saved = count_saved_numbers(recomputing, video, labels)
    assert saved < count_saved_numbers(spec.build(4).train(), video, labels)
    for a, b in zip(plain.parameters(), recomputing.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad)


def count_saved_numbers(module, video, labels) -> int:
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


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_dropout_acts_in_training_and_rests_in_judging(tiny_spec, clips, model: str) -> None:
    spec = tiny_spec(model, dropout=0.5)
    module = spec.build(4)
    video = clips(spec)
    assert not torch.equal(module.train()(video), module(video))
    assert torch.equal(module.eval()(video), module(video))


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_a_tiny_model_learns_four_clips_within_seconds(tiny_spec, clips, model: str) -> None:
    spec = tiny_spec(model)
    module = spec.build(4).train()
    video, labels = clips(spec, batch=4), torch.arange(4)
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(module(video), labels)
        if loss < 0.1:
            break
        loss.backward()
        optimizer.step()
    assert (module.eval()(video).argmax(dim=1) == labels).all()


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("timesformer", {"frames": 3, "image_size": 48}),
        ("timesformer", {"frames": 1}),
        ("videomae", {"frames": 4, "image_size": 16}),
        ("videomae", {"frames": 16, "tubelet": 8}),
        ("vivit", {"frames": 8, "image_size": 40}),
        ("vivit", {"tubelet": 2}),
        ("cnn3d", {"frames": 1, "image_size": 16}),
        ("cnn3d", {"frames": 5, "image_size": 33}),
    ],
)
def test_other_frame_counts_and_sizes_work(tiny_spec, clips, model: str, options) -> None:
    spec = tiny_spec(model, **options)
    assert spec.build(4).eval()(clips(spec)).shape == (2, 4)
