"""Small models and clips for the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from regatta.config.schema import EntrySection
from regatta.models.spec import ModelSpec, resolve_model
from regatta.models.weights import save_model

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


@pytest.fixture(scope="session")
def library_logits() -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """Logits of a library model, whatever it calls its input."""

    def run(library: Any, video: torch.Tensor) -> torch.Tensor:
        return library(**{library.main_input_name: video}).logits

    return run


@pytest.fixture
def saved(tmp_path: Path, tiny_spec, lively, classes):
    """saved("videomae") -> (folder, module, spec): a lively tiny model on disk."""

    def save(model: str, *, seed: int = 1, **options: Any) -> tuple[Path, nn.Module, ModelSpec]:
        spec = tiny_spec(model, **options)
        module = lively(spec.build(len(classes)), seed)
        folder = tmp_path / f"{model}-{seed}"
        save_model(folder, module, spec, classes)
        return folder, module, spec

    return save


@pytest.fixture(scope="session")
def edit_json() -> Callable[..., None]:
    """edit_json(path, key=value): change keys of a JSON file."""

    def edit(path: Path, **changes: Any) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


@pytest.fixture(scope="session")
def edit_weights() -> Callable[..., None]:
    """edit_weights(folder, change): call `change` on the stored tensors and store them again."""

    def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
        path = folder / "model.safetensors"
        state = load_file(path)
        change(state)
        save_file(state, path)

    return edit
