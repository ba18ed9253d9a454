"""Every fusion type against its formula, written once more as plain loops over numbers."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import k0
from torch import nn

from regatta.config.fusion_names import FUSION_TYPES, canonical_fusion, entry_form
from regatta.core.errors import ConfigError, UnknownNameError
from regatta.models.image.fusion_types import (
    FUSIONS,
    Attention,
    Fusion,
    MeanOfTokens,
    Product,
    WeightedSum,
    make_fusion,
)
from regatta.models.image.stable_products import GatedProduct, GeometricProduct

SAMPLES, EXPERTS, DIM, HIDDEN = 3, 4, 16, 24
PRODUCTS = [name for name in FUSION_TYPES if name.startswith("multiplicative")]


def lively_fusion(name: str, *, dtype: torch.dtype = torch.float64, **options) -> Fusion:
    """Random numbers in every parameter: the first values hide half of the formulas."""
    settings = {"experts": EXPERTS, "dim": DIM, "hidden": HIDDEN, **options}
    module = make_fusion(name, **settings).to(dtype).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise * (0.3 if parameter.ndim > 1 else 0.7))
    return module


def features(*, dtype: torch.dtype = torch.float64, scale: float = 1.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    drawn = torch.randn(SAMPLES, EXPERTS, DIM, generator=generator, dtype=torch.float64)
    return (scale * drawn + 0.4).to(dtype)


def numbers(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {key: tensor.double().numpy() for key, tensor in state.items()}


def layer_norm(x: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    return np.array(
        [
            (v - mean) / math.sqrt(variance + 1e-5) * a + b
            for v, a, b in zip(x, scale, shift, strict=True)
        ]
    )


def softmax(values) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def mlp(p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    hidden = np.maximum(p["mlp.0.weight"] @ x + p["mlp.0.bias"], 0)
    return p["mlp.3.weight"] @ hidden + p["mlp.3.bias"]


def product(xs: list[np.ndarray]) -> np.ndarray:
    return np.array([math.prod(x[i] for x in xs) for i in range(DIM)])


def attention(p: dict[str, np.ndarray], xs: list[np.ndarray]) -> np.ndarray:
    """Mean over the experts of one attention with 8 heads of 2 features."""
    part = "combine.layers.0"
    weight, bias = p[f"{part}.query_key_value.weight"], p[f"{part}.query_key_value.bias"]
    queries, keys, values = (
        [weight[i * DIM : (i + 1) * DIM] @ x + bias[i * DIM : (i + 1) * DIM] for x in xs]
        for i in range(3)
    )
    size = DIM // 8
    total = np.zeros(DIM)
    for query in queries:
        mixed = np.zeros(DIM)
        for head in range(8):
            here = slice(head * size, (head + 1) * size)
            shares = softmax([query[here] @ key[here] / math.sqrt(size) for key in keys])
            mixed[here] = sum(share * v[here] for share, v in zip(shares, values, strict=True))
        total += p[f"{part}.output.weight"] @ mixed + p[f"{part}.output.bias"]
    return total / len(xs)


def combined(name: str, p: dict[str, np.ndarray], fs: np.ndarray, *, plain: bool) -> np.ndarray:
    """The vector before the MLP, of one sample's features [E, d]."""
    xs = list(fs)
    if name != "simpleAddition" or plain:
        xs = [layer_norm(f, p[f"norms.{k}.weight"], p[f"norms.{k}.bias"]) for k, f in enumerate(fs)]
    if name == "multiplicative":
        return product(xs)
    if name == "multiplicativeAddition":
        shares = [1.0] * EXPERTS if plain else softmax(p["combine.added.weights_E"])
        return product(xs) + sum(share * x for share, x in zip(shares, xs, strict=True))
    if name == "multiplicativeShifted":
        return product([x + 1 for x in xs])
    if name == "TransformerBase":
        return attention(p, xs)
    if name == "concatenation":
        return np.concatenate(xs)
    if name == "simpleAddition":
        shares = [1.0] * EXPERTS if plain else softmax(p["combine.weights_E"])
        return np.array(sum(share * x for share, x in zip(shares, xs, strict=True)))
    if name == "multiplicativeGeometric":
        power = (EXPERTS - 1) / (2 * EXPERTS)
        return product([x / (x * x + 0.1) ** power for x in xs])
    assert name == "multiplicativeGated"
    gates = [np.tanh(p[f"combine.slopes.{k}"] * x) for k, x in enumerate(xs)]
    bounded = [np.clip(gate, -(1 - 1e-4), 1 - 1e-4) for gate in gates]
    return product([1 + gate for gate in bounded]) - 1 + sum(xs) / EXPERTS


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        *((name, False) for name in FUSION_TYPES),
        ("multiplicativeAddition", True),
        ("simpleAddition", True),
    ],
)
def test_every_type_is_its_formula(name: str, plain: bool) -> None:
    module = lively_fusion(name, addition="plain" if plain else "softmax")
    p = numbers(module.state_dict())
    expected = [mlp(p, combined(name, p, sample.numpy(), plain=plain)) for sample in features()]
    with torch.no_grad():
        found = module(features())
    assert np.abs(found.numpy() - np.array(expected)).max() < 1e-9


@pytest.mark.parametrize("name", FUSION_TYPES)
def test_float32_is_the_formula_to_a_millionth(name: str) -> None:
    # Relative to the size of the answer, whose terms reach hundreds in the shifted product.
    exact, single = lively_fusion(name), lively_fusion(name, dtype=torch.float32)
    with torch.no_grad():
        expected = exact(features())
        found = single(features(dtype=torch.float32)).double()
    assert (found - expected).abs().max() <= 1e-6 * max(1.0, expected.abs().max().item())


def test_attention_is_torchs_multi_head_attention() -> None:
    ours = Attention(DIM).double().eval()
    theirs = nn.MultiheadAttention(DIM, 8, batch_first=True, dtype=torch.float64).eval()
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.query_key_value.weight,
            "in_proj_bias": ours.query_key_value.bias,
            "out_proj.weight": ours.output.weight,
            "out_proj.bias": ours.output.bias,
        }
    )
    x = features()
    assert torch.allclose(ours(x), theirs(x, x, x, need_weights=False)[0], atol=1e-12)


def test_depth_two_is_torchs_encoder_of_two_layers() -> None:
    module = lively_fusion("TransformerBase", depth=2)
    layer = nn.TransformerEncoderLayer(DIM, 8, HIDDEN, batch_first=True, dtype=torch.float64)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    renamed = {
        "attention.query_key_value.weight": "self_attn.in_proj_weight",
        "attention.query_key_value.bias": "self_attn.in_proj_bias",
        "attention.output": "self_attn.out_proj",
        "feed_forward.0": "linear1",
        "feed_forward.3": "linear2",
    }
    assert isinstance(module.combine, MeanOfTokens)
    state = {}
    for key, tensor in module.combine.layers.state_dict().items():
        for ours, theirs in renamed.items():
            key = key.replace(ours, theirs)
        state[f"layers.{key}"] = tensor
    encoder.load_state_dict(state)
    assert module.norms is not None
    x = torch.stack([norm(features()[:, k]) for k, norm in enumerate(module.norms)], dim=1)
    with torch.no_grad():
        expected = module.mlp(encoder(x).mean(dim=1))
        found = module(features())
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("name", FUSION_TYPES)
def test_a_sample_is_fused_as_if_it_were_alone(name: str) -> None:
    module = lively_fusion(name)
    with torch.no_grad():
        together = module(features())
        alone = torch.cat([module(features()[i : i + 1]) for i in range(SAMPLES)])
    assert torch.allclose(together, alone, atol=1e-12)


def test_a_plain_sum_and_a_product_do_not_ask_who_said_what() -> None:
    order = torch.tensor([2, 0, 3, 1])
    x = features()
    for combine in (Product(), Product(shift=1.0), WeightedSum(4, addition="plain")):
        assert torch.allclose(combine(x[:, order]), combine(x), atol=1e-12)
    assert torch.allclose(GeometricProduct()(x[:, order]), GeometricProduct()(x), atol=1e-12)


def test_experts_and_their_parameters_exchanged_together_change_nothing() -> None:
    order = [2, 0, 3, 1]
    for name in ("multiplicativeAddition", "multiplicativeGated", "TransformerBase"):
        module, other = lively_fusion(name), lively_fusion(name)
        state = module.state_dict()
        moved = dict(state)
        for new, old in enumerate(order):
            for key in state:
                for part in ("norms", "combine.slopes"):
                    if key.startswith(f"{part}.{old}"):
                        moved[key.replace(f"{part}.{old}", f"{part}.{new}", 1)] = state[key]
        if "combine.added.weights_E" in state:
            moved["combine.added.weights_E"] = state["combine.added.weights_E"][order]
        other.load_state_dict(moved)
        assert torch.allclose(other(features()[:, order]), module(features()), atol=1e-12)


def test_learned_weights_start_as_the_mean() -> None:
    x = features()
    combine = WeightedSum(EXPERTS, addition="softmax").double()
    assert torch.allclose(combine(x), x.mean(dim=1), atol=1e-12)


def test_one_expert_is_its_own_product() -> None:
    x = features()[:, :1]
    assert torch.equal(Product()(x), x[:, 0])
    assert torch.equal(GeometricProduct()(x), x[:, 0])


def test_the_geometric_product_of_large_values_is_the_signed_geometric_mean() -> None:
    x = torch.tensor([[[100.0], [-400.0], [200.0], [50.0]]], dtype=torch.float64)
    mean = (100 * 400 * 200 * 50) ** 0.25
    assert GeometricProduct()(x).item() == pytest.approx(-mean, rel=1e-4)


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("value", [20.0, -20.0, 0.0, 1e-30])
def test_products_of_features_up_to_20_stay_finite(name: str, value: float) -> None:
    combine = make_fusion(name, experts=EXPERTS, dim=DIM).combine
    x = torch.full((2, EXPERTS, DIM), value, requires_grad=True)
    combined_Bd = combine(x)
    combined_Bd.sum().backward()
    assert torch.isfinite(combined_Bd).all()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    if name in ("multiplicativeGeometric", "multiplicativeGated"):
        # The root of 20^4 is 20; the gates give 2^4 - 1 at most, and the mean is 20 at most.
        assert combined_Bd.detach().abs().max() <= 35.0


@pytest.mark.parametrize("name", FUSION_TYPES)
def test_gradients_are_finite_under_bf16_autocast(name: str) -> None:
    module = make_fusion(name, experts=EXPERTS, dim=DIM).train()
    x = features(dtype=torch.bfloat16, scale=20.0).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        module(x).float().square().mean().backward()
    gradients = [x.grad, *(parameter.grad for parameter in module.parameters())]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_made_in_float32_under_autocast(name: str) -> None:
    combine = make_fusion(name, experts=EXPERTS, dim=DIM).combine
    x = features(dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = combine(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, combine(x.float()))


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_largest_product_is_kept_and_is_no_part_of_the_weights(name: str) -> None:
    module = make_fusion(name, experts=EXPERTS, dim=DIM)
    keys = set(module.state_dict())
    assert module.largest_product is None
    module.train()(features(dtype=torch.float32))
    first = module.largest_product
    assert first is not None
    assert first.shape == ()
    assert not first.requires_grad
    assert set(module.state_dict()) == keys


def test_the_largest_product_is_that_of_the_last_forward() -> None:
    module = make_fusion("multiplicative", experts=2, dim=2)
    assert module.norms is not None
    for norm in module.norms:
        assert isinstance(norm, nn.LayerNorm)
        nn.init.constant_(norm.weight, 3.0)
    # Two features are normalised to +-1, so the products are +-3 * 3.
    module(torch.tensor([[[5.0, 1.0], [0.0, 10.0]]]))
    assert module.largest_product is not None
    assert module.largest_product.item() == pytest.approx(9.0, rel=1e-3)
    module(torch.tensor([[[math.nan, 1.0], [0.0, 10.0]]]))
    assert math.isnan(module.largest_product.item())
    assert make_fusion("concatenation", experts=2, dim=2).largest_product is None


@pytest.fixture(scope="module")
def million_normals() -> torch.Tensor:
    """[1000, 4, 1000]: a million draws of four independent unit normals."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1000, 4, 1000, generator=generator, dtype=torch.float64)


def kurtosis(values: torch.Tensor) -> float:
    centred = values - values.mean()
    return (centred.pow(4).mean() / centred.square().mean().square()).item()


def test_a_plain_product_of_four_normals_has_heavy_tails(million_normals) -> None:
    z = Product()(million_normals)
    # 3^4 = 81; the eighth moment behind its error is 105^4, so a million draws say it to a tenth.
    assert kurtosis(z) == pytest.approx(81, rel=0.15)
    # P(|x1 x2 x3 x4| > 10), with the density of a product of two normals, K0(|u|) / pi.
    inside = quad(lambda u: 2 / math.pi * k0(u) * two_normals_beyond(10 / u), 0, 60, limit=200)
    assert inside[0] == pytest.approx(1e-3, rel=0.5)
    assert (z.abs() > 10).double().mean().item() == pytest.approx(inside[0], rel=0.1)
    assert 30 < z.abs().max().item() < 150


def two_normals_beyond(limit: float) -> float:
    """P(|x1 x2| > limit)."""
    if limit > 60:
        return 0.0
    return 2 / math.pi * quad(lambda u: k0(u), limit, 80)[0]


def test_the_smooth_root_keeps_the_size_of_one_factor(million_normals) -> None:
    z = GeometricProduct()(million_normals)
    assert kurtosis(z) == pytest.approx(3.6, abs=0.1)
    assert z.abs().max().item() < 3


def test_shifting_makes_the_tails_lighter_but_not_light(million_normals) -> None:
    z = Product(shift=1.0)(million_normals)
    # E(x + 1)^2 = 2, so the variance is 2^4 - 1.
    assert z.std().item() == pytest.approx(math.sqrt(15), rel=0.02)
    # Moments of x + 1: 1, 2, 4, 10; those of four factors are their fourth powers.
    m1, m2, m3, m4 = (moment**4 for moment in (1, 2, 4, 10))
    exact = (m4 - 4 * m3 * m1 + 6 * m2 * m1**2 - 3 * m1**4) / (m2 - m1**2) ** 2
    assert exact == pytest.approx(43, rel=0.1)
    assert kurtosis(z) == pytest.approx(exact, rel=0.15)


def test_gates_bound_the_product(million_normals) -> None:
    combine = GatedProduct(4, 1000).double()
    with torch.no_grad():
        z = combine(million_normals) - million_normals.mean(dim=1)
    assert kurtosis(z) == pytest.approx(8, rel=0.1)
    assert z.min().item() > -1
    assert z.max().item() < 15


def test_names_are_found_in_any_spelling() -> None:
    for name in FUSION_TYPES:
        assert canonical_fusion(name) == name
        assert canonical_fusion(entry_form(name)) == name
        assert canonical_fusion(entry_form(name).replace("-", "_").upper()) == name
    assert entry_form("multiplicativeAddition") == "multiplicative-addition"
    assert entry_form("TransformerBase") == "transformer-base"
    assert entry_form("concatenation") == "concatenation"
    assert set(FUSIONS) == set(FUSION_TYPES)


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("multiplicativ", "multiplicative"),
        ("Transformer", "TransformerBase"),
        ("concat", "concatenation"),
        ("multiplicative-geometrical", "multiplicativeGeometric"),
    ],
)
def test_an_unknown_type_is_told_with_the_nearest(slip: str, meant: str) -> None:
    with pytest.raises(UnknownNameError, match=f"no fusion type named '{slip}'") as told:
        make_fusion(slip, experts=2, dim=8)
    assert told.value.hint is not None
    assert told.value.hint.startswith(f"did you mean '{meant}'?")


def test_names_are_known_without_torch() -> None:
    code = (
        "import sys; from regatta.config.fusion_names import FUSION_TYPES, canonical_fusion;"
        "assert len(FUSION_TYPES) == 8; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("TransformerBase", {"dim": 20}, r"8 heads.*dimension 20 .*1, 2, 4, 5 heads"),
        ("multiplicative", {"depth": 2}, "depth: 2 is for TransformerBase"),
        ("TransformerBase", {"depth": 3}, "depth must be 1 or 2"),
        ("concatenation", {"addition": "plain"}, "addition: plain is for"),
        ("multiplicative", {"hidden": 0}, "hidden must be at least 1"),
        ("multiplicative", {"experts": 0}, "at least 1 expert"),
    ],
)
def test_settings_that_cannot_act_are_refused(name: str, settings, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make_fusion(name, **{"experts": 4, "dim": 16, **settings})


@pytest.mark.parametrize("hidden", [None, 24])
def test_a_hidden_size_that_is_given_is_used(hidden: int | None) -> None:
    module = make_fusion("multiplicative", experts=4, dim=16, hidden=hidden)
    first = module.mlp[0]
    assert isinstance(first, nn.Linear)
    assert first.out_features == (hidden or 16)
    dropout = module.mlp[2]
    assert isinstance(dropout, nn.Dropout)
    assert dropout.p == 0.2
