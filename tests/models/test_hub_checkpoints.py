"""Checkpoints as the library itself writes them: folders, shards and the hub's cache, offline.

Every reference is the library's own model, built by it and read back by its `from_pretrained`.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file

from regatta.config.schema import EntrySection
from regatta.core.errors import WeightsError
from regatta.models.spec import resolve_model
from regatta.models.weights import load_checkpoint

TRANSFORMER: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "timesformer": ("Timesformer", {**TRANSFORMER, "num_frames": 8}),
    "videomae": ("VideoMAE", {**TRANSFORMER, "num_frames": 16, "use_mean_pooling": True}),
    "vivit": ("Vivit", {**TRANSFORMER, "num_frames": 32, "tubelet_size": [4, 8, 8]}),
    "vjepa2": (
        "VJEPA2",
        {
            "crop_size": 32,
            "patch_size": 8,
            "frames_per_clip": 16,
            "hidden_size": 96,
            "num_attention_heads": 4,
            "num_hidden_layers": 4,
            "num_pooler_layers": 1,
            "pred_hidden_size": 24,
            "pred_num_attention_heads": 2,
            "pred_num_hidden_layers": 2,
        },
    ),
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def library_model(model: str, lively, classes: list[str]) -> Any:
    """The library's own classifier with large random weights, none of ours in it."""
    name, settings = SETTINGS[model]
    config = getattr(transformers, f"{name}Config")(
        **settings, id2label=dict(enumerate(classes)), label2id={}
    )
    module = lively(getattr(transformers, f"{name}ForVideoClassification")(config), 5)
    for part in module.modules():
        if isinstance(bias := getattr(getattr(part, "key", None), "bias", None), torch.Tensor):
            # Published VideoMAE files have no such bias.
            bias.data.zero_()
    return module


def entry_of(model: str, checkpoint: str, **options: Any) -> EntrySection:
    return EntrySection(name="e", model=model, size="tiny", checkpoint=checkpoint, options=options)


@pytest.mark.parametrize("shard_bytes", ["1GB", "400KB"], ids=["one-file", "shards"])
@pytest.mark.parametrize("model", SETTINGS)
def test_logits_are_those_of_the_librarys_own_model(
    tmp_path: Path, lively, clips, classes, library_logits, model: str, shard_bytes: str
) -> None:
    library_model(model, lively, classes).save_pretrained(tmp_path, max_shard_size=shard_bytes)
    sharded = shard_bytes != "1GB"
    assert (tmp_path / "model.safetensors.index.json").is_file() is sharded
    assert (tmp_path / "model.safetensors").is_file() is not sharded
    kind = getattr(transformers, f"{SETTINGS[model][0]}ForVideoClassification")
    library = kind.from_pretrained(tmp_path).eval()
    spec = resolve_model(entry_of(model, str(tmp_path)), 4, seed=2)
    module = spec.build(4).eval()
    report = load_checkpoint(module, spec, str(tmp_path), classes=classes)
    assert not report.new_head
    found, expected = module(clips(spec, 3)), library_logits(library, clips(spec, 3))
    assert expected.std() > 0.1
    assert torch.allclose(found, expected, atol=1e-5, rtol=0)


LOAD = """
import json, sys, torch
from regatta.config.schema import EntrySection
from regatta.models.spec import resolve_model
from regatta.models.weights import load_checkpoint
torch.set_num_threads(1)
found = {}
for model, checkpoint in json.loads(sys.argv[1]).items():
    entry = EntrySection(name="e", model=model, size="tiny", checkpoint=checkpoint)
    spec = resolve_model(entry, 4, seed=2)
    module = spec.build(4).eval()
    report = load_checkpoint(module, spec, checkpoint, classes=["clap", "jump", "run", "walk"])
    shape = (2, spec.frames, 3, spec.image_size, spec.image_size)
    clip = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found[model] = {"source": report.source, "logits": module(clip).tolist()}
print(json.dumps(found))
"""


def run_offline(home: Path, checkpoints: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Load checkpoints in a fresh process that knows the cache by HF_HOME alone."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_"))}
    environment = {**kept, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(checkpoints)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def put_in_cache(home: Path, name: str, write: Callable[[Path], object], *, ref: str) -> None:
    store = home / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = store / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    write(snapshot)
    (store / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
    (store / "refs" / ref).write_text(COMMIT)


@pytest.mark.fault(27)
def test_every_model_is_read_from_the_hubs_cache_without_network(
    tmp_path: Path, lively, clips, classes, library_logits
) -> None:
    expected, checkpoints = {}, {}
    revisions = dict(zip(SETTINGS, ["", "@v1", f"@{COMMIT}", "@refs/pr/7"], strict=True))
    for model, revision in revisions.items():
        library = library_model(model, lively, classes)
        ref = "main" if revision in ("", f"@{COMMIT}") else revision[1:]
        put_in_cache(tmp_path, f"someone/{model}", library.save_pretrained, ref=ref)
        checkpoints[model] = f"someone/{model}{revision}"
        spec = resolve_model(entry_of(model, "none"), 4, seed=2)
        expected[model] = library_logits(library, clips(spec))
    done = run_offline(tmp_path, checkpoints)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for model, logits in expected.items():
        assert found[model]["source"] == f"someone/{model}@{COMMIT}"
        assert torch.allclose(torch.tensor(found[model]["logits"]), logits, atol=1e-5, rtol=0)


@pytest.mark.fault(27)
def test_a_checkpoint_that_is_not_cached_names_the_folder_and_the_cure(tmp_path: Path) -> None:
    done = run_offline(tmp_path / "empty", {"videomae": "someone/videomae@v3"})
    assert done.returncode != 0
    told = done.stderr
    assert "someone/videomae@v3 is not in the cache" in told
    assert "HF_HUB_OFFLINE is set" in told
    assert str(tmp_path / "empty" / "hub") in told
    assert "hf download someone/videomae --revision v3" in told


def written_out_videomae(state: dict[str, torch.Tensor], video: torch.Tensor) -> torch.Tensor:
    """VideoMAE's logits from its definition: joint attention with biases (q, 0, v), mean of tokens.

    Source: Tong et al. 2022; bias layout of the original code, `F.linear(x, W_qkv, (q, 0, v))`.
    """
    heads, width = 4, 96
    weight, bias = (
        state[f"videomae.embeddings.patch_embeddings.projection.{k}"] for k in ("weight", "bias")
    )
    x = F.conv3d(video.transpose(1, 2), weight, bias, stride=(2, 8, 8)).flatten(2).transpose(1, 2)
    place = torch.arange(x.shape[1], dtype=torch.float64)[:, None]
    column = torch.arange(width)[None, :]
    angle = place / 10_000 ** (2 * (column // 2) / width)
    x = x + torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()
    for layer in range(4):
        part = {
            key.removeprefix(f"videomae.encoder.layer.{layer}."): tensor
            for key, tensor in state.items()
            if key.startswith(f"videomae.encoder.layer.{layer}.")
        }

        def dense(y: torch.Tensor, name: str, part: dict = part) -> torch.Tensor:
            return F.linear(y, part[f"{name}.weight"], part[f"{name}.bias"])

        def norm(y: torch.Tensor, name: str, part: dict = part) -> torch.Tensor:
            return F.layer_norm(y, (width,), part[f"{name}.weight"], part[f"{name}.bias"], 1e-12)

        y = norm(x, "layernorm_before")
        qkv = torch.cat(
            [part[f"attention.attention.{n}.weight"] for n in ("query", "key", "value")]
        )
        q_bias = part["attention.attention.q_bias"]
        biases = torch.cat([q_bias, torch.zeros_like(q_bias), part["attention.attention.v_bias"]])
        packed = F.linear(y, qkv, biases).unflatten(-1, (3, heads, width // heads))
        q, k, v = packed.permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1) / math.sqrt(width // heads)).softmax(dim=-1)
        x = x + dense((scores @ v).transpose(1, 2).flatten(2), "attention.output.dense")
        hidden = F.gelu(dense(norm(x, "layernorm_after"), "intermediate.dense"))
        x = x + dense(hidden, "output.dense")
    pooled = F.layer_norm(
        x.mean(dim=1), (width,), state["fc_norm.weight"], state["fc_norm.bias"], 1e-12
    )
    return F.linear(pooled, state["classifier.weight"], state["classifier.bias"])


def test_a_published_videomae_gives_the_logits_of_its_definition(
    tmp_path: Path, lively, clips, classes
) -> None:
    library_model("videomae", lively, classes).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    noise = torch.Generator().manual_seed(6)
    for layer in range(4):
        base = f"videomae.encoder.layer.{layer}.attention.attention"
        for old in ("query", "key", "value"):
            # The library's releases differ in how they write these.
            state.pop(f"{base}.{old}.bias", None)
        for new in ("q_bias", "v_bias"):
            state[f"{base}.{new}"] = torch.randn(96, generator=noise)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    spec = resolve_model(entry_of("videomae", str(tmp_path)), 4, seed=0)
    module = spec.build(4).eval()
    load_checkpoint(module, spec, str(tmp_path), classes=classes)
    expected = written_out_videomae(state, clips(spec, 3))
    assert torch.allclose(module(clips(spec, 3)), expected, atol=1e-5, rtol=1e-5)


def test_a_videomae_whose_biases_cannot_be_placed_is_refused(
    tmp_path: Path, lively, classes
) -> None:
    library_model("videomae", lively, classes).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    base = "videomae.encoder.layer.0.attention.attention"
    state[f"{base}.qkv_bias"] = torch.ones(288)
    gone = [state.pop(f"{base}.{name}", None) for name in ("q_bias", "query.bias")]
    assert any(tensor is not None for tensor in gone)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    spec = resolve_model(entry_of("videomae", str(tmp_path)), 4, seed=0)
    with pytest.raises(WeightsError, match=r"query\.bias.*qkv_bias"):
        load_checkpoint(spec.build(4), spec, str(tmp_path), classes=classes)


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        ("timesformer", {"frames": 4}, "8 -> 4 time steps"),
        ("videomae", {"frames": 8}, "8 -> 4 time steps"),
        ("vivit", {"frames": 16}, "8 -> 4 time steps"),
        ("vjepa2", {"image_size": 16}, "4x4 -> 2x2 patches"),
    ],
)
def test_a_library_checkpoint_for_other_clips_is_fitted_and_says_so(
    tmp_path: Path, lively, clips, classes, model: str, options, told: str
) -> None:
    library_model(model, lively, classes).save_pretrained(tmp_path)
    spec = resolve_model(entry_of(model, str(tmp_path), **options), 4, seed=0)
    module = spec.build(4).eval()
    report = load_checkpoint(module, spec, str(tmp_path), classes=classes)
    assert told in report.summary()
    assert torch.isfinite(module(clips(spec))).all()
