"""Kill a run of a real, small fusion before each of its micro-batches, let it resume, and print
what came out as JSON.

python -m tests.training.fusion_kills FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from regatta.models.image.fusion import fusion
from regatta.models.spec import seeded_build
from regatta.training.loop import train_run
from tests.training.kill_everywhere import die_at, in_child
from tests.training.tiny_training import TinyClips, outcome, tiny_run

RECIPE: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 4,
    "checkpoint_every_steps": 1,
    "mixup": 0.2,
    "cutmix": 1.0,
    "mix_share": 2 / 3,
    "label_smoothing": 0.1,
    "clip_norms": {"experts.": 5.0},
    "lr_factors": {"experts.": 0.1},
}
PICTURES = 12
"""3 optimizer steps an epoch."""


def pictures(count: int, seed: int, **options: Any) -> TinyClips:
    """Random uint8 pictures [N, 3, 16, 16]."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return TinyClips(images, torch.arange(count) % 3, **options)


def train(path: Path, **options: Any) -> None:
    spec = fusion(size="tiny", family="resnet18", experts=2, type="multiplicative", image_size=16)
    loaders = {
        "train_loader": pictures(PICTURES, 0, **options),
        "validation": pictures(6, 1),
    }
    module = seeded_build(spec.build, 0)(3)
    train_run(**tiny_run(path, module=module, spec=spec, **loaders, **RECIPE))


def kill_and_resume(path: Path, number: int) -> dict[str, Any]:
    ended = in_child(lambda: train(path, before_batch=die_at(number)))
    resumed = in_child(lambda: train(path))
    return {
        "ended": ended,
        "resumed": resumed,
        "outcome": outcome(path) if resumed == 0 else None,
    }


def main(root: Path) -> None:
    torch.set_num_threads(1)
    in_child(lambda: train(root / "reference"))
    faults = [kill_and_resume(root / f"fault-{number}", number) for number in range(1, 7)]
    print(json.dumps({"reference": outcome(root / "reference"), "faults": faults}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
