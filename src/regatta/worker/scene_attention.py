"""Where models of scenes look, kept with their predictions: a few clips with maps, and whether what
the maps point at matters.

Shapes: n scenes, V views, T frames, S pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from regatta.core.files import atomic_path, write_json
from regatta.core.seeds import derive_seed, stream
from regatta.data.manifest import Sample
from regatta.data.scene_store import SceneStore
from regatta.data.transforms import normalise
from regatta.evaluation.predict import JudgedEntry
from regatta.models.scene.attention_maps import attention_maps, delete_pixels, faithfulness

KEPT = 8
"""Scenes whose pictures and maps are kept, two of each class; the numbers are of all."""
DELETED_SHARE = 0.1
TOGETHER = 8
RED_OVER_GREEN = 85
"""Half of the ball's colour over the ground: such a pixel is covered by half or more."""


def attention_samples(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """`count` samples in a seeded order, of all classes in turn."""
    order = stream(seed, "attention").permutation(len(samples))
    of_class: dict[int, list[Sample]] = {}
    for row in order:
        of_class.setdefault(samples[row].label, []).append(samples[row])
    turns = max(map(len, of_class.values()), default=0)
    queues = [of_class[label] for label in sorted(of_class)]
    mixed = [queue[turn] for turn in range(turns) for queue in queues if turn < len(queue)]
    return mixed[:count]


def write_attention(
    entry: JudgedEntry,
    store: SceneStore,
    samples: Sequence[Sample],
    *,
    device: torch.device,
    poll: Callable[[], None],
) -> None:
    """`attention.safetensors` and `attention.json` in the folder of an entry's predictions."""
    parts, method = [], ""
    for start in range(0, len(samples), TOGETHER):
        poll()
        chosen = samples[start : start + TOGETHER]
        part, method = _looked_at(entry, store, chosen, device)
        parts.append(part)
    frames = torch.cat([part["frames"] for part in parts])[:KEPT]
    maps = torch.cat([part["maps"] for part in parts])
    discs = torch.cat([part["discs"] for part in parts])
    right = {key: torch.cat([part[key] for part in parts]) for key in ("whole", "top", "random")}
    labels = torch.tensor([sample.label for sample in samples])
    accuracy = {key: float((found == labels).float().mean()) for key, found in right.items()}
    with atomic_path(entry.folder / "attention.safetensors") as temporary:
        # Of one view: a strip shows one camera.
        kept = {"frames": frames[:, 0].contiguous(), "maps": maps[:KEPT, 0].contiguous()}
        save_file(kept, temporary)
    facts: dict[str, Any] = {
        "samples": [sample.sample_id for sample in samples[:KEPT]],
        "labels": [sample.label for sample in samples[:KEPT]],
        "predicted": right["whole"][:KEPT].tolist(),
        "method": method,
        "scenes": len(samples),
        "faithfulness": {
            **faithfulness(maps, discs),
            "accuracy": accuracy["whole"],
            "accuracy_top_deleted": accuracy["top"],
            "accuracy_random_deleted": accuracy["random"],
            "deleted_share": DELETED_SHARE,
        },
    }
    write_json(entry.folder / "attention.json", facts)


def _looked_at(
    entry: JudgedEntry, store: SceneStore, samples: Sequence[Sample], device: torch.device
) -> tuple[dict[str, torch.Tensor], str]:
    """Frames, maps, disc masks, and the classes answered with and without what was looked at."""
    spec, module = entry.spec, entry.module
    frames = store.frames(store.rows(samples), spec.views)
    # Inference mode gives tensors that no gradient can flow from.
    with torch.inference_mode(False):
        video = normalise(frames.to(device), spec.mean, spec.std)
        maps, method = attention_maps(module, video)
    seed = derive_seed(0, "deleted", *(sample.sample_id for sample in samples))
    ground = (1 - spec.mean[0]) / spec.std[0]
    answers = {"whole": _classes(module, video, entry)}
    for choice in ("top", "random"):
        shown = delete_pixels(
            video,
            maps,
            share=DELETED_SHARE,
            fill=ground,
            choice=choice,
            generator=torch.Generator().manual_seed(seed),
        )
        answers[choice] = _classes(module, shown, entry)
    discs = frames[:, :, :, 0].int() - frames[:, :, :, 1].int() > RED_OVER_GREEN
    return {"frames": frames, "maps": maps.detach().cpu(), "discs": discs, **answers}, method


def _classes(module: torch.nn.Module, video: torch.Tensor, entry: JudgedEntry) -> torch.Tensor:
    targets = len(np.atleast_1d(entry.spec.config["options"]["targets"]))
    with torch.no_grad():
        return module(video)[:, : -3 * targets].argmax(dim=1).cpu()
