"""Small models and clips for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from regatta.config.schema import EntrySection
from regatta.models.spec import ModelSpec, resolve_model

CLASSES = ["clap", "jump", "run", "walk"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def classes() -> list[str]:
    return list(CLASSES)


@pytest.fixture(scope="session")
def tiny_spec() -> Callable[..., ModelSpec]:
    """A tiny random-weights spec of a model: tiny_spec("videomae", frames=8, seed=3)."""

    def resolve(
        model: str, *, seed: int = 0, checkpoint: str = "none", **options: Any
    ) -> ModelSpec:
        entry = EntrySection(
            name=model, model=model, size="tiny", checkpoint=checkpoint, options=options
        )
        return resolve_model(entry, len(CLASSES), seed=seed)

    return resolve


@pytest.fixture(scope="session")
def lively() -> Callable[[nn.Module, int], nn.Module]:
    """Large random numbers in every parameter: zeros and near-equal attention hide mistakes."""

    def fill(module: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * (0.2 if parameter.ndim > 1 else 0.5))
        return module.eval()

    return fill


@pytest.fixture(scope="session")
def clips() -> Callable[..., torch.Tensor]:
    """Seeded normal noise in the shape a spec takes, [B, T, 3, H, W]."""

    def draw(spec: ModelSpec, batch: int = 2, seed: int = 0) -> torch.Tensor:
        shape = (batch, spec.frames, 3, spec.image_size, spec.image_size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    return draw
