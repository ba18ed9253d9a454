"""The networks on raw windows: their size in closed form, odd window lengths, files."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from regatta.config.schema import EntrySection
from regatta.core.errors import ConfigError
from regatta.models.sensor.cnn1d import Cnn1d
from regatta.models.sensor.transformer1d import Transformer1d
from regatta.models.spec import count_flops, count_parameters, make_spec, resolve_model
from regatta.models.weights import load_model, save_model


def network(model: str, window: tuple[int, int], **options: int) -> Cnn1d | Transformer1d:
    module = make_spec(model, "base", options, window=window).build(4)
    assert isinstance(module, Cnn1d | Transformer1d)
    return module.eval()


def cnn1d_size(channels: int, classes: int) -> int:
    """Convolutions k = 5 without bias, two numbers of batch norm per map, linear 256 -> K."""
    widths = [channels, 64, 64, 128, 128, 128, 128]
    convolutions = sum(5 * a * b + 2 * b for a, b in pairwise(widths))
    return convolutions + 256 * classes + classes


def transformer1d_size(channels: int, length: int, classes: int) -> int:
    width, mlp, layers = 64, 128, 4
    embed = 8 * channels * width + width + -(-length // 8) * width
    attention = 4 * (width * width + width)
    perceptron = 2 * width * mlp + mlp + width
    norms = 2 * 2 * width
    return embed + layers * (attention + perceptron + norms) + 2 * width + width * classes + classes


@pytest.mark.parametrize(("channels", "length", "classes"), [(9, 128, 6), (3, 100, 12)])
def test_parameters_are_what_the_definition_counts(channels, length, classes) -> None:
    window = (channels, length)
    for model, size in (
        ("cnn1d", cnn1d_size(channels, classes)),
        ("transformer1d", transformer1d_size(channels, length, classes)),
    ):
        assert count_parameters(make_spec(model, "base", {}, window=window).build(classes)) == size


def test_on_uci_har_they_have_the_stated_sizes() -> None:
    assert cnn1d_size(9, 6) == 312_902
    assert transformer1d_size(9, 128, 6) == 140_102


def test_transformer1d_operations_in_closed_form() -> None:
    spec = make_spec("transformer1d", "base", {}, window=(9, 128))
    tokens, width, mlp = 16, 64, 128
    per_layer = tokens * (4 * width * width + 2 * width * mlp) + 2 * tokens * tokens * width
    macs = tokens * 72 * width + 4 * per_layer + width * 6
    assert count_flops(spec.build(6), spec) == 2 * macs


def test_transformer1d_is_torchs_own_encoder_on_patches_of_all_channels(lively) -> None:
    signals = torch.randn(3, 2, 32, generator=torch.Generator().manual_seed(0))
    module = lively(network("transformer1d", (2, 32)))
    state = module.state_dict()
    # Token t holds samples 8 t to 8 t + 7 of every channel; statistics are 0 and 1 as built.
    patches = torch.stack([signals[:, :, 8 * t : 8 * t + 8].flatten(1) for t in range(4)], dim=1)
    x = patches @ state["embed.weight"].T + state["embed.bias"] + state["position_embeddings"]
    names = {"norm1": "norm_attention", "norm2": "norm_mlp", "linear1": "mlp_in"}
    names |= {"linear2": "mlp_out", "self_attn.out_proj": "attention.output"}
    for layer in range(4):
        theirs = torch.nn.TransformerEncoderLayer(
            64, 4, 128, activation="gelu", batch_first=True, norm_first=True
        )
        part = {
            f"{their}.{kind}": state[f"blocks.{layer}.{our}.{kind}"]
            for their, our in names.items()
            for kind in ("weight", "bias")
        }
        for kind in ("weight", "bias"):
            part[f"self_attn.in_proj_{kind}"] = torch.cat(
                [state[f"blocks.{layer}.attention.{n}.{kind}"] for n in ("query", "key", "value")]
            )
        theirs.load_state_dict(part)
        x = theirs.eval()(x)
    x = F.layer_norm(x, (64,), state["norm.weight"], state["norm.bias"]).mean(dim=1)
    expected = x @ state["head.weight"].T + state["head.bias"]
    assert expected.std() > 0.1
    assert torch.allclose(module(signals), expected, atol=1e-4)


def test_a_window_that_is_no_multiple_of_the_patch_ends_at_the_channels_means() -> None:
    signals = torch.randn(5, 3, 12, generator=torch.Generator().manual_seed(0)) * 4 + 7
    short = network("transformer1d", (3, 12), patch=8)
    short.fit_statistics(signals)
    whole = network("transformer1d", (3, 16), patch=8)
    whole.load_state_dict(short.state_dict())
    means = signals.mean(dim=(0, 2))[None, :, None].expand(5, 3, 4)
    filled = torch.cat([signals, means], dim=2)
    assert torch.allclose(short(signals), whole(filled), atol=1e-5)


@pytest.mark.parametrize("model", ["cnn1d", "transformer1d"])
def test_units_and_offsets_of_a_channel_do_not_matter(model: str) -> None:
    signals = torch.randn(8, 3, 32, generator=torch.Generator().manual_seed(0))
    module = network(model, (3, 32))
    module.fit_statistics(signals)
    before = module(signals)
    scaled = signals * torch.tensor([1000.0, 0.1, 1.0])[:, None] + 50
    module.fit_statistics(scaled)
    assert torch.allclose(module(scaled), before, atol=1e-3)


@pytest.mark.parametrize("model", ["cnn1d", "transformer1d"])
def test_a_saved_network_gives_the_same_bits_and_brings_its_statistics(
    tmp_path: Path, classes, model: str
) -> None:
    signals = torch.randn(4, 3, 20, generator=torch.Generator().manual_seed(1)) * 3 + 1
    entry = EntrySection(name="e", model=model)
    spec = resolve_model(entry, len(classes), seed=0, window=(3, 20))
    module = spec.build(len(classes)).eval()
    assert isinstance(module, Cnn1d | Transformer1d)
    module.fit_statistics(signals)
    save_model(tmp_path, module, spec, classes)
    loaded, found, names = load_model(tmp_path)
    assert isinstance(loaded, Cnn1d | Transformer1d)
    assert names == classes
    assert found.window == (3, 20)
    assert torch.equal(loaded(signals), module(signals))
    assert torch.equal(loaded.standardise.mean_C, signals.double().mean(dim=(0, 2)).float())


def test_a_patch_of_no_samples_is_refused() -> None:
    with pytest.raises(ConfigError, match="patch must be at least 1"):
        make_spec("transformer1d", "base", {"patch": 0})
