"""Exported models: whole folders that others load, with a card that says what is known."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForVideoClassification

from regatta.analysis.compare import compare_study
from regatta.config.expand import protocol_id
from regatta.config.load import study_from_mapping
from regatta.config.schema import EntrySection
from regatta.core.files import read_json
from regatta.core.signals import StopFlag
from regatta.data.manifest import Manifest
from regatta.evaluation.protocols import resolve_protocol
from regatta.models.spec import make_spec, resolve_model
from regatta.models.weights import load_checkpoint, load_model, save_model
from regatta.records.predictions import file_hash, read_run_predictions
from regatta.records.run_folder import StudyFolder, open_study
from regatta.report.material import read_material
from regatta.report.model_export import export_models
from regatta.worker.judge import judge
from regatta.worker.prepare import prepare
from regatta.worker.status_writer import StatusWriter
from regatta.worker.train import train

LIBRARY = ["timesformer", "videomae", "vivit", "vjepa2"]
FILES = [
    "README.md",
    "config.json",
    "id2label.json",
    "model.safetensors",
    "preprocessor_config.json",
]
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run_study(home: Path, base: Path) -> StudyFolder:
    """Train and judge every model for an epoch, on real video files, as the workers do."""
    models = [*LIBRARY, "cnn3d"]
    entries: list[dict[str, Any]] = [
        {"name": m, "model": m, "size": "tiny", "checkpoint": "none"} for m in models
    ]
    entries[0] |= {"checkpoint": str(base), "options": {"frames": 4}}
    clips = {"train_clips": 8, "validation_clips": 8, "test_clips": 8, "frames": 32}
    settings = {
        "name": "small",
        "data": {"source": "rotors", "root": str(home / "rotors"), "options": clips},
        "entries": entries,
        "train": {"epochs": 1, "batch_size": 8, "lr": 1e-3, "flip": False},
        "protocol": {
            "name": "temporal-grid",
            "options": {"coverage": [50, 100], "stride": [1, 4]},
        },
        "compare": {"replicates": 100},
    }
    folder = open_study(home / "runs", study_from_mapping(settings, where="tests"))
    stop, silent = StopFlag(), StatusWriter([])
    prepare(folder, stop, silent)
    ids = [run.run_id for _, run in folder.runs()]
    for run_id in ids:
        train(folder, run_id, device=CPU, stop=stop, status=silent)
    judge(folder, ids, shard=(0, 1), device=CPU, threads=1, stop=stop, status=silent)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A compared study of all kinds of models; TimeSformer starts from other weights' 8 frames."""
    home = tmp_path_factory.mktemp("trained")
    spec = make_spec("timesformer", "tiny", {})
    torch.manual_seed(3)
    save_model(home / "start-here", spec.build(2), spec, ["a", "b"])
    folder = run_study(home, home / "start-here")
    compare_study(folder)
    return folder


@pytest.fixture(scope="module")
def exported(trained: StudyFolder) -> Path:
    to = trained.path.parents[1] / "fine_tuned_models"
    export_models(trained, to)
    return to


def card_of(exported: Path, entry: str) -> str:
    return (exported / f"fine_tuned_{entry}_rotors" / "README.md").read_text()


def python_blocks(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def shown_frames(folder: StudyFolder, sample: Any, condition: Any, frames: int) -> list[np.ndarray]:
    """The pictures [H, W, 3] of a sample's clip, decoded here and not by the product."""
    plan = resolve_protocol(folder.study().protocol).plan(
        sample.frames, sample.fps, condition, frames, sample_id=sample.sample_id
    )
    with av.open(str(sample.path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [pictures[index] for index in plan.indices]


@pytest.mark.parametrize("entry", LIBRARY)
def test_the_cards_own_code_gives_the_judged_scores(
    trained: StudyFolder, exported: Path, entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(exported)
    ((spec, run),) = [pair for pair in trained.runs() if pair[0].entry.name == entry]
    judged = read_run_predictions(
        run.predictions(protocol_id(trained.study().protocol)),
        run_id=spec.run_id,
        entry=entry,
        seed=0,
    )
    model_frames = load_model(run.model)[1].frames
    manifest = Manifest.load(trained.manifest)
    library_code, regatta_code = python_blocks(card_of(exported, entry))
    place = 1
    sample = {s.sample_id: s for s in manifest.split("test")}[judged.sample_ids[place]]
    for number in (0, len(judged.conditions) - 1):
        frames = shown_frames(trained, sample, judged.conditions[number], model_frames)
        assert frames[0].shape == (32, 32, 3)
        scope: dict[str, Any] = {"frames": frames}
        with torch.no_grad():
            exec(library_code, scope)
        expected = torch.from_numpy(judged.scores[number, place].copy())
        found = scope["scores"][0]
        assert torch.allclose(found, expected, atol=1e-5, rtol=0), (found, expected)
        assert type(scope["model"]).__name__.endswith("ForVideoClassification")
        # Regatta's own loader on the same pixels.
        with torch.no_grad():
            exec(regatta_code, ours := {"video": scope["pixels"]})
        assert torch.allclose(ours["scores"][0], expected, atol=1e-5, rtol=0)
        assert ours["classes"] == judged.classes


@pytest.mark.parametrize("entry", LIBRARY)
def test_from_pretrained_gives_the_bits_of_the_trained_model(
    trained: StudyFolder, exported: Path, entry: str
) -> None:
    folder = exported / f"fine_tuned_{entry}_rotors"
    library, told = AutoModelForVideoClassification.from_pretrained(
        folder, output_loading_info=True
    )
    assert type(library).__name__ == read_json(folder / "config.json")["architectures"][0]
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    ((_, run),) = [pair for pair in trained.runs() if pair[0].entry.name == entry]
    module, spec, classes = load_model(run.model)
    shape = (3, spec.frames, 3, spec.image_size, spec.image_size)
    video = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = module(video)
        found = library.eval()(**{library.main_input_name: video}).logits
    if entry == "timesformer":  # the library has no fused attention here
        assert torch.allclose(found, expected, atol=1e-5, rtol=0)
    else:
        assert torch.equal(found, expected)
    assert [library.config.id2label[n] for n in range(len(classes))] == classes
    assert library.config.label2id == {name: n for n, name in enumerate(classes)}


def test_our_own_network_is_loaded_by_the_cards_code(
    trained: StudyFolder, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(exported)
    card = card_of(exported, "cnn3d")
    assert "The transformers library does not have this model" in card
    (code,) = python_blocks(card)
    video = torch.randn(2, 16, 3, 32, 32)
    with torch.no_grad():
        exec(code, scope := {"video": video})
    ((_, run),) = [pair for pair in trained.runs() if pair[0].entry.name == "cnn3d"]
    with torch.no_grad():
        assert torch.equal(scope["scores"], load_model(run.model)[0](video))


def test_a_folder_holds_what_the_hub_wants_and_the_runs_own_weights(
    trained: StudyFolder, exported: Path
) -> None:
    assert sorted(os.listdir(exported)) == sorted(
        f"fine_tuned_{entry}_rotors" for entry in (*LIBRARY, "cnn3d")
    )
    for spec, run in trained.runs():
        folder = exported / f"fine_tuned_{spec.entry.name}_rotors"
        assert sorted(os.listdir(folder)) == FILES
        assert file_hash(folder / "model.safetensors") == file_hash(run.model / "model.safetensors")
        labels = read_json(folder / "id2label.json")
        assert labels == read_json(folder / "config.json")["id2label"]
        assert list(labels.values()) == read_json(trained.data_json)["classes"]


def test_the_card_holds_the_numbers_of_the_comparison(trained: StudyFolder, exported: Path) -> None:
    comparison = read_json(trained.results / "comparison.json")
    card = card_of(exported, "videomae")
    (entry,) = [e for e in comparison["entries"] if e["name"] == "videomae"]
    accuracy = entry["accuracy"]
    shown = [f"{100 * accuracy[key]:.1f}" for key in ("estimate", "low", "high")]
    told = f"Accuracy {shown[0]} %, 95 % interval [{shown[1]}, {shown[2]}]"
    assert told in card
    assert "8 samples of 8 groups of the test split, at coverage 100 %, stride 1" in card
    cells = {
        row["condition"]: row["accuracy"]
        for row in comparison["table"]
        if row["model"] == "videomae"
    }
    for coverage in (50, 100):
        row = " | ".join(f"{100 * cells[f'c{coverage}s{s}']:.1f}" for s in (1, 4))
        assert f"| {coverage} % | {row} |" in card
    assert "one seed, so training noise is not covered" in card
    assert "Data (rotors): generated by Regatta" in card
    results = read_json(
        next(r for s, r in trained.runs() if s.entry.name == "videomae").training_results
    )
    assert f"{results['steps']} optimizer steps over {results['samples_seen']} clips" in card
    assert "| lr | 0.001 |" in card


def test_fitted_positions_are_told_in_the_card_and_in_the_report(
    trained: StudyFolder, exported: Path
) -> None:
    card = card_of(exported, "timesformer")
    assert "fine-tuned from a checkpoint named start-here" in card
    assert "8 -&#62; 4 time steps" in card
    assert str(trained.path.parents[1]) not in card
    comparison = read_material(trained).comparison
    notes = {entry["name"]: entry["notes"] for entry in comparison["entries"]}
    (note,) = [note for note in notes["timesformer"] if "fitted" in note]
    assert "time_embeddings (8 -> 4 time steps)" in note
    assert not any("fitted" in note for note in notes["vivit"])


def test_another_study_starts_from_an_export(trained: StudyFolder, exported: Path) -> None:
    card = card_of(exported, "timesformer")
    (block,) = re.findall(r"```yaml\n(.*?)```", card, re.DOTALL)
    (entry,) = yaml.safe_load(block)
    assert entry["options"] == {"frames": 4}
    section = EntrySection(name="e", **entry | {"checkpoint": str(exported / entry["checkpoint"])})
    classes = read_json(trained.data_json)["classes"]
    spec = resolve_model(section, len(classes), seed=1)
    report = load_checkpoint(spec.build(len(classes)), spec, section.checkpoint, classes=classes)
    assert not report.new_head
    assert not report.interpolated
