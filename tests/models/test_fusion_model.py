"""The fusion as a model of the registry: heads, names of parameters, frozen experts, weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from regatta.config.fusion_names import FUSION_TYPES, entry_form
from regatta.core.errors import ConfigError, UnknownNameError, WeightsError
from regatta.core.registry import MODELS
from regatta.models.contracts import EncodesOnce, HasHeads
from regatta.models.image.backbone import ImageClassifier
from regatta.models.image.fusion import FusionModel
from regatta.models.parameters import freeze_encoder, parameter_groups, set_training_mode
from regatta.models.spec import ModelSpec, count_flops, count_parameters, make_spec
from regatta.models.weights import load_model, save_model

FAMILIES = ["densenet121", "resnet18", "improved_wideresnet28_10", "preact_resnext29_8x64d"]
MIXED = {"families": FAMILIES}
CLASS_SPLIT = {"family": "resnet18", "own_heads": True, "expert_classes": [2, 1, 2, 1]}
FORMS = [{"family": "densenet121"}, MIXED, CLASS_SPLIT, {**MIXED, "own_heads": True}]


@pytest.fixture
def fusion_spec(tiny_spec):
    def resolve(**options) -> ModelSpec:
        chosen = {"family": "resnet18", **options}
        if "families" in options:
            del chosen["family"]
        return tiny_spec("fusion", **chosen)

    return resolve


@pytest.fixture
def build(fusion_spec):
    def make(**options) -> FusionModel:
        module = fusion_spec(**options).build(4)
        assert isinstance(module, FusionModel)
        return module.eval()

    return make


def experts_of(module: FusionModel) -> list[ImageClassifier]:
    return [expert for expert in module.experts if isinstance(expert, ImageClassifier)]


def images(batch: int = 2, side: int = 32) -> torch.Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


def stirred(module: FusionModel) -> FusionModel:
    """With running statistics and softmax weights that are not the first ones."""
    module.train()
    with torch.no_grad():
        module(images(8))
        for parameter in module.head.parameters():
            parameter += 0.1 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(1)
            )
    return module.eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", FUSION_TYPES)
def test_every_family_goes_with_every_type(build, family: str, kind: str) -> None:
    module = build(family=family, type=entry_form(kind), image_size=16).train()
    logits = module(images(4, 16))
    assert logits.shape == (4, 5, 4)
    assert module.head_names == ("global", "expert-0", "expert-1", "expert-2", "expert-3")
    labels = torch.tensor([0, 1, 2, 3]).repeat_interleave(5)
    F.cross_entropy(logits.flatten(0, 1), labels).backward()
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


def test_heads_are_those_of_the_parts(build) -> None:
    module = stirred(build(type="multiplicativeAddition"))
    with torch.no_grad():
        logits = module(images())
        pairs = [expert.features_and_logits(images()) for expert in experts_of(module)]
        fused = module.head.fusion(torch.stack([features for features, _ in pairs], dim=1))
        assert torch.allclose(logits[:, 0], module.head.classifier(fused), atol=1e-6)
    for k, (_, expected) in enumerate(pairs):
        assert torch.equal(logits[:, k + 1], expected)


def test_mixed_experts_pass_through_adapters_of_their_own(build) -> None:
    module = stirred(build(**MIXED))
    assert module.head.adapters is not None
    with torch.no_grad():
        features = [expert.features(images()) for expert in experts_of(module)]
        assert [x.shape[1] for x in features] == [32, 64, 64, 64]
        adapted = [adapt(x) for adapt, x in zip(module.head.adapters, features, strict=True)]
        assert all(x.shape == (2, 64) for x in adapted)
        fused = module.head.fusion(torch.stack(adapted, dim=1))
        found = module(images())[:, 0]
    assert torch.allclose(found, module.head.classifier(fused), atol=1e-6)


def test_new_heads_answer_in_the_place_of_the_experts_own(build) -> None:
    module = stirred(build(**CLASS_SPLIT))
    assert module.head.own is not None
    with torch.no_grad():
        found = module(images())
        for k, expert in enumerate(experts_of(module)):
            expected = module.head.own[k](expert.features(images()))
            assert torch.allclose(found[:, k + 1], expected, atol=1e-6)
        for expert in experts_of(module):
            nn.init.zeros_(expert.head.weight)
        assert torch.equal(module(images()), found)
    assert [expert.head.out_features for expert in experts_of(module)] == [2, 1, 2, 1]


@pytest.mark.parametrize("options", FORMS)
def test_every_trained_parameter_gets_a_gradient(build, options) -> None:
    # One without would stop distributed training at its second step.
    module = build(**options).train()
    module(images(4)).square().sum().backward()
    without = [key for key, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


@pytest.mark.parametrize("options", FORMS)
def test_parameters_stand_where_recipes_look_for_them(build, options) -> None:
    keys = [key for key, _ in build(**options).named_parameters()]
    assert all(key.startswith(("experts.", "head.")) for key in keys)
    parts = {key.split(".")[1] for key in keys if key.startswith("head.")}
    mixed, own = "families" in options, options.get("own_heads", False)
    assert parts - {"adapters", "own"} == {"fusion", "classifier"}
    assert ("adapters" in parts, "own" in parts) == (mixed, own)
    assert {"experts.3.head.weight", "head.classifier.weight"} <= set(keys)


def test_rates_can_be_given_to_experts_fusion_and_global_head(build, fusion_spec) -> None:
    module, spec = build(type="multiplicativeGated"), fusion_spec(type="multiplicativeGated")
    groups = parameter_groups(
        module,
        spec,
        lr=1e-3,
        head_lr_factor=1.0,
        weight_decay=1e-4,
        lr_factors={"experts": 0.1, "head.fusion": 1.0, "head.classifier": 2.0},
    )
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates["experts/"] == pytest.approx(1e-4)
    assert rates["head.fusion/"] == 1e-3
    assert rates["head.classifier/"] == 2e-3
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    norms_and_gates = [
        p for key, p in module.named_parameters() if "norm" in key or "slopes" in key
    ]
    assert len(norms_and_gates) > 20
    assert not decayed & {id(p) for p in norms_and_gates}


@pytest.mark.parametrize("options", FORMS)
def test_the_head_on_encoded_experts_is_the_whole(build, options) -> None:
    module = stirred(build(**options))
    dim = module.head.dim
    with torch.no_grad():
        encoded = [module.encode_channel(images(), k) for k in module.feature_channels]
        assert torch.equal(module.head(torch.stack(encoded, dim=1)), module(images()))
    extra = 0 if options.get("own_heads") else 4
    assert {tuple(x.shape) for x in encoded} == {(2, dim + extra)}
    assert isinstance(module, EncodesOnce)
    assert isinstance(module, HasHeads)


def test_frozen_experts_stay_as_they_are(build, fusion_spec) -> None:
    module, spec = build(), fusion_spec()
    freeze_encoder(module, spec)
    set_training_mode(module, spec, frozen=True)
    before = {key: tensor.clone() for key, tensor in module.experts.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    module(images(4)).square().sum().backward()
    optimizer.step()
    after = module.experts.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(p.grad is not None for p in module.head.parameters())


def test_types_and_seeds_share_what_frozen_experts_encode(build) -> None:
    first, other = build(type="multiplicative"), build(type="concatenation", head="deep")
    assert first.encoding_identity() == other.encoding_identity()
    assert first.encoding_identity() != build(family="densenet121").encoding_identity()
    assert first.encoding_identity() != build(own_heads=True).encoding_identity()


@pytest.mark.parametrize("options", [*FORMS, {"type": "TransformerBase", "depth": 2}])
def test_saved_fusions_load_as_they_were(tmp_path: Path, fusion_spec, classes, options) -> None:
    spec = fusion_spec(**options, head="deep", hidden="doc")
    module = stirred(spec.build(4))
    save_model(tmp_path, module, spec, classes)
    again, loaded, names = load_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(images()), module(images()))
    assert (loaded.config, names) == (spec.config, classes)


def test_trained_experts_take_their_places(build, tiny_spec) -> None:
    module = build()
    trained = [tiny_spec("resnet18", seed=seed).build(4).eval() for seed in (5, 6, 7, 8)]
    for k, expert in enumerate(trained):
        module.load_expert(k, expert.state_dict(), family="resnet18")
    with torch.no_grad():
        found = module(images())
        for k, expert in enumerate(trained):
            assert torch.equal(found[:, k + 1], expert(images()))


def test_class_split_experts_keep_their_own_heads(build) -> None:
    module = build(**CLASS_SPLIT)
    spec = make_spec("resnet18", "tiny", {})
    expert = spec.build(2)
    assert isinstance(expert, ImageClassifier)
    module.load_expert(2, expert.state_dict())
    place = experts_of(module)[2]
    assert torch.equal(place.head.weight, expert.head.weight)
    assert not place.head.weight.requires_grad


def test_weights_that_do_not_fit_are_refused_and_change_nothing(build) -> None:
    module = build()
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    states = {
        size: make_spec("resnet18", size, {}).build(4).state_dict() for size in ("tiny", "small")
    }
    fewer = make_spec("resnet18", "tiny", {}).build(3).state_dict()
    dense = make_spec("densenet121", "tiny", {}).build(4).state_dict()
    bad = {key: tensor.clone() for key, tensor in states["tiny"].items()}
    bad["body.stem.conv.weight"][0, 0, 0, 0] = float("nan")
    cases = [
        (fewer, None, r"expert 1 \(resnet18\) answer 3 classes, its own head in the fusion 4"),
        (dense, "densenet121", "expert 1 of the fusion is resnet18, the weights are of densenet"),
        (dense, None, r"do not fit expert 1 \(resnet18\): missing: .*; unexpected: "),
        (states["small"], None, r"\[16, 3, 3, 3\] in the weights, \[8, 3, 3, 3\] in the fusion"),
        (bad, None, "NaN or infinite weights for expert 1"),
    ]
    for state, family, told in cases:
        with pytest.raises(WeightsError, match=told) as error:
            module.load_expert(1, state, family=family, source="expert.safetensors")
        assert error.value.where == "expert.safetensors"
    after = module.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_largest_product_is_at_hand(build) -> None:
    module = build(type="multiplicativeShifted")
    assert module.largest_product is None
    module(images())
    assert module.largest_product is not None
    assert module.largest_product.item() > 0
    assert build(type="concatenation").largest_product is None


def test_flops_are_those_of_the_experts_and_of_the_fusion(fusion_spec, tiny_spec) -> None:
    expert = tiny_spec("resnet18")
    one = count_flops(expert.build(4), expert)
    spec = fusion_spec(type="concatenation", hidden=24)
    module = spec.build(4)
    module(images())
    products = 4 * 64 * 24 + 24 * 64 + 64 * 4
    assert count_flops(module, spec) == 4 * one + 2 * products
    module = fusion_spec(type="multiplicative").build(4)
    module(images())
    assert count_flops(module, spec) > 0
    assert not module.largest_product.is_meta


def test_parameters_are_those_of_the_experts_and_of_the_fusion() -> None:
    spec = make_spec("fusion", "base", {"family": "resnet18", "type": "concatenation"})
    with torch.device("meta"):
        module = spec.build(100)
    experts = 4 * 11_220_132
    norms, mlp = 4 * 2 * 512, (4 * 512 * 512 + 512) + (512 * 512 + 512)
    assert count_parameters(module) == experts + norms + mlp + 512 * 100 + 100


def test_random_weights_depend_on_the_seed_and_differ_between_experts(tiny_spec) -> None:
    options = {"family": "resnet18", "experts": 2}
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = tiny_spec("fusion", seed=5, **options).build(4).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = tiny_spec("fusion", seed=5, **options).build(4).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    key = "body.stem.conv.weight"
    assert not torch.equal(first[f"experts.0.{key}"], first[f"experts.1.{key}"])


def test_options_of_experts_reach_them(build) -> None:
    module = build(expert_options={"width": 0.5}, image_size=16, experts=2, hidden="doc")
    assert module.head.dim == 32
    assert module.experts[0].image_size == 16
    assert module.head.fusion.mlp[0].out_features == 48
    assert module(images(2, 16)).shape == (2, 3, 4)


def test_fusion_is_listed_as_a_model_of_images() -> None:
    assert MODELS.listed["fusion"].kind == "image"
    spec = make_spec("fusion", "tiny", {"family": "resnet18", "type": "transformer-base"})
    assert (spec.kind, spec.head_prefixes) == ("image", ("head.",))
    assert spec.config["options"]["type"] == "TransformerBase"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "needs `family`"),
        ({"family": "resnet18", "families": ["resnet18"] * 4}, "needs `family`"),
        ({"families": ["resnet18"] * 3}, "3 models for 4 experts"),
        ({"family": "fusion"}, "fusion cannot be an expert"),
        ({"family": "cnn1d"}, "cnn1d cannot be an expert"),
        ({"family": "resnet18", "experts": 0}, "at least 1 expert"),
        ({"family": "resnet18", "expert_classes": [4, 4]}, "must hold 4 class counts"),
        ({"family": "resnet18", "expert_classes": [2, 4, 4, 4]}, "own head has 2 classes"),
        ({"family": "resnet18", "expert_options": {"image_size": 16}}, "fusion's own option"),
        (
            {
                "family": "resnet18",
                "type": "TransformerBase",
                "expert_options": {"width": 0.19},
            },
            r"do not divide the feature dimension 12 \(divided by 1, 2, 3, 4, 6 heads\)",
        ),
        ({"family": "resnet18", "depth": 2}, "depth: 2 is for TransformerBase"),
        ({"family": "densenet121", "image_size": 8}, "too small for densenet121"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make_spec("fusion", "tiny", options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"family": "resnet8"}, "did you mean 'resnet18'"),
        ({"family": "resnet18", "type": "multiplicativ"}, "did you mean 'multiplicative'"),
        ({"family": "resnet18", "expert_options": {"widht": 2.0}}, "did you mean 'width'"),
    ],
)
def test_unknown_names_are_told_with_the_nearest(options, told: str) -> None:
    with pytest.raises(UnknownNameError) as error:
        make_spec("fusion", "tiny", options)
    assert told in str(error.value)


def test_class_counts_that_cannot_answer_need_new_heads(fusion_spec) -> None:
    spec = fusion_spec(expert_classes=[2, 2, 2, 2])
    with pytest.raises(ConfigError, match="own head has 2 classes, the fusion has 4") as error:
        spec.build(4)
    assert error.value.hint is not None
    assert "own_heads: true" in error.value.hint
