"""The exported tree holds exactly the tensors of the runs, under the names that users know."""

from __future__ import annotations

import re
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from regatta.config.load import study_from_mapping
from regatta.core.errors import ConfigError, DiskError, RecordError
from regatta.core.files import read_json, write_json
from regatta.models.spec import make_spec, seeded_build
from regatta.models.weights import read_state, save_model
from regatta.records.run_folder import RunFolder, StudyFolder, open_study
from regatta.report.fusion_tree import export_fusion_tree
from tests.fusion_here import CLASSES, fusion_mapping, run_of

FUSED = "resnet-multiplicative"


def trained_at_random(runs: Path, *, leave: tuple[str, ...] = (), **sections: Any) -> StudyFolder:
    """A study whose runs all hold the random weights that they would begin with."""
    study = study_from_mapping(fusion_mapping(Path("nowhere"), **sections))
    folder = open_study(runs, study)
    for number, (spec, run) in enumerate(folder.runs()):
        if spec.entry.name not in leave:
            entry = spec.entry
            model = make_spec(entry.model, entry.size, entry.options)
            module = seeded_build(model.build, number)(len(CLASSES))
            save_model(run.model, module, model, list(CLASSES), {"seed": spec.seed})
            write_json(run.training_results, {"best_epoch": 1})
    return folder


BARE = {"baselines": [], "types": ["multiplicative", "concatenation"]}


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    return trained_at_random(tmp_path / "runs", fusion=BARE)


def files(root: Path, suffix: str = ".safetensors") -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.suffix == suffix}


def test_every_file_of_the_tree_has_its_place(study: StudyFolder, tmp_path: Path):
    written = export_fusion_tree(study, tmp_path / "out")
    parts = [
        f"resnet_fusions/{kind}/{place}"
        for kind in ("multiplicative", "concatenation")
        for place in (
            "experts/resnet_expert_0_best",
            "experts/resnet_expert_1_best",
            f"fusion/resnet_{kind}_fusion_best",
            f"global/resnet_{kind}_global_head_best",
        )
    ]
    alone = [f"expert_training/checkpoints/resnet/expert_{k}_best" for k in (0, 1)]
    assert files(tmp_path / "out") == {f"{name}.safetensors" for name in (*parts, *alone)}
    assert {str(f.path.relative_to(tmp_path / "out")) for f in written} == files(tmp_path / "out")
    # Tensors and their facts alone: nothing that could run when it is opened.
    assert {p.suffix for p in (tmp_path / "out").rglob("*") if p.is_file()} == {
        ".safetensors",
        ".json",
    }


def test_the_parts_together_are_the_model_and_nothing_else(study: StudyFolder, tmp_path: Path):
    export_fusion_tree(study, tmp_path)
    base = tmp_path / "resnet_fusions" / "multiplicative"
    prefixes = {
        "experts/resnet_expert_0_best": "experts.0.",
        "experts/resnet_expert_1_best": "experts.1.",
        "fusion/resnet_multiplicative_fusion_best": "head.",
        "global/resnet_multiplicative_global_head_best": "head.classifier.",
    }
    joined = {
        prefix + key: tensor
        for name, prefix in prefixes.items()
        for key, tensor in load_file(base / f"{name}.safetensors").items()
    }
    model = read_state(run_of(study, FUSED).model)
    assert set(joined) == set(model)
    assert all(torch.equal(joined[key], model[key]) for key in model)
    facts = read_json(base / "fusion" / "resnet_multiplicative_fusion_best.json")
    assert facts["run"] == run_of(study, FUSED).run_id


def test_an_expert_alone_is_the_one_before_it_was_trained_along(study: StudyFolder, tmp_path: Path):
    export_fusion_tree(study, tmp_path)
    alone = load_file(tmp_path / "expert_training/checkpoints/resnet/expert_1_best.safetensors")
    own = read_state(run_of(study, "resnet-expert-1").model)
    assert set(alone) == set(own)
    assert all(torch.equal(alone[key], own[key]) for key in own)


def test_alpha_and_seed_enter_the_names_where_there_are_several(tmp_path: Path):
    section = {**BARE, "types": ["multiplicative"], "alphas": [0.5, 10]}
    folder = trained_at_random(tmp_path / "runs", fusion=section, seeds=[0, 3])
    export_fusion_tree(folder, tmp_path / "out")
    heads = {Path(name).name for name in files(tmp_path / "out") if "/global/" in name}
    assert heads == {
        f"resnet_multiplicative_alpha{alpha}_seed{seed}_global_head_best.safetensors"
        for alpha in ("0.5", "10")
        for seed in (0, 3)
    }
    alone = {Path(n).name for n in files(tmp_path / "out") if n.startswith("expert_training")}
    assert alone == {f"expert_{k}_seed{s}_best.safetensors" for k in (0, 1) for s in (0, 3)}
    # No two runs share a file: each stands there once.
    assert len(files(tmp_path / "out")) == 4 * 4 + 4


def test_experts_of_a_mixed_system_stand_under_their_own_families(tmp_path: Path):
    section = {"mixed": True, "families": ["resnet", "densenet"], **BARE}
    export_fusion_tree(trained_at_random(tmp_path / "runs", fusion=section), tmp_path / "out")
    assert (tmp_path / "out/mixed_fusions/multiplicative/fusion").is_dir()
    alone = {n for n in files(tmp_path / "out") if n.startswith("expert_training")}
    assert alone == {
        "expert_training/checkpoints/resnet/expert_0_best.safetensors",
        "expert_training/checkpoints/densenet/expert_1_best.safetensors",
    }


def test_logs_are_copied_where_they_were_written(study: StudyFolder, tmp_path: Path):
    place = Path("results/csv_logs/resnet_fusions/resnet_multiplicative_training_log.csv")
    log = study.path / place
    log.parent.mkdir(parents=True)
    log.write_text("epoch,train_loss\n1,0.5\n")
    export_fusion_tree(study, tmp_path / "out")
    assert (tmp_path / "out" / place).read_bytes() == log.read_bytes()


def test_what_is_not_trained_yet_is_left_out(tmp_path: Path):
    folder = trained_at_random(tmp_path / "runs", fusion=BARE, leave=(FUSED,))
    written = export_fusion_tree(folder, tmp_path / "out")
    assert not (tmp_path / "out/resnet_fusions/multiplicative").exists()
    assert run_of(folder, FUSED).run_id not in {file.run_id for file in written}


def test_an_export_again_replaces_and_adds_nothing(study: StudyFolder, tmp_path: Path):
    export_fusion_tree(study, tmp_path / "out")
    names = sorted((tmp_path / "out").rglob("*"))
    one = tmp_path / "out/expert_training/checkpoints/resnet/expert_0_best.safetensors"
    one.write_bytes(b"half")
    export_fusion_tree(study, tmp_path / "out")
    assert sorted((tmp_path / "out").rglob("*")) == names
    own = read_state(run_of(study, "resnet-expert-0").model)
    assert all(torch.equal(tensor, own[key]) for key, tensor in load_file(one).items())


def test_a_study_without_fusions_or_without_weights_is_refused(tmp_path: Path):
    content = fusion_mapping(Path("nowhere"), fusion=None)
    content["entries"] = [{"name": "x", "model": "resnet18", "size": "tiny"}]
    with pytest.raises(ConfigError, match="no fusion to write"):
        export_fusion_tree(open_study(tmp_path, study_from_mapping(content)), tmp_path / "out")
    empty = open_study(tmp_path / "e", study_from_mapping(fusion_mapping(Path("nowhere"))))
    with pytest.raises(RecordError, match="no expert and no fusion of this study is trained"):
        export_fusion_tree(empty, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_weights_name_their_run(study: StudyFolder, tmp_path: Path):
    run: RunFolder = run_of(study, FUSED)
    whole = (run.model / "model.safetensors").read_bytes()
    (run.model / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordError, match="cannot be read") as caught:
        export_fusion_tree(study, tmp_path / "out")
    assert run.run_id in str(caught.value.hint)
    assert not files(tmp_path / "out", ".tmp")


def test_a_target_that_is_a_file_is_told_and_kept(study: StudyFolder, tmp_path: Path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DiskError, match=re.escape(str(tmp_path / "out"))):
        export_fusion_tree(study, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_full_disk_is_told_and_leaves_no_half_file(study: StudyFolder, tmp_path: Path):
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on the size of a file stands for a disk that fills up within one.
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(DiskError):
            export_fusion_tree(study, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    for path in (tmp_path / "out").rglob("*.safetensors"):
        load_file(path)
    assert {p.suffix for p in (tmp_path / "out").rglob("*") if p.is_file()} <= {
        ".safetensors",
        ".json",
    }
