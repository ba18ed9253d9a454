"""The tables of a fusion study: columns as they are promised, and numbers counted by hand."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from regatta.analysis.fusion import fusion_section
from regatta.analysis.fusion_ood import NOT_MEASURED, detection, energy, ood_name
from regatta.analysis.judged import JudgedStudy, read_judged_study
from regatta.core.files import read_json
from regatta.records.run_folder import StudyFolder
from tests.analysis.fusion_build import ROBUST, build_fusion_study, drawn_scores, labels_of

MATRIX = (
    "architecture fusion_type partition alpha accuracy low high gain_over_average "
    "gain_over_equal_cost verdict"
)
EVALUATION = (
    "timestamp model_type fusion_type alpha expert_id architecture test_type test_param "
    "corruption_type severity accuracy loss correct total low high seed run"
)
OOD = "ood_dataset ood_type auroc aupr fpr95 detection_accuracy threshold score n_in n_out status"
DIVERSITY = "disagreement q correlation double_fault oracle ambiguity cka"
COST = "run parameters macs_per_image train_flops images_seen device_seconds peak_gb"
FUSION_LOG = (
    "epoch train_loss val_loss val_accuracy experts_lr fusion_lr global_head_lr loss_global "
    "loss_individual loss_total expert_0_accuracy expert_1_accuracy expert_2_accuracy "
    "expert_3_accuracy expert_0_loss expert_1_loss expert_2_loss expert_3_loss alpha fusion_type "
    "model_architecture timestamp seed train_accuracy seconds grad_norm_experts grad_norm_fusion "
    "run"
)
EXPERT_LOG = "epoch train_loss train_acc val_loss val_acc lr best_val_acc_so_far seconds run"
SMALL = {"samples": 24, "seeds": (0,), "compare": {"replicates": 100}}


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def header(text: str) -> str:
    return text.splitlines()[0].replace(",", " ")


def fusion_of(path: Path, **options: Any) -> tuple[StudyFolder, dict[str, str]]:
    one = {"families": ["resnet"], "types": ["multiplicative"], "baselines": ["full"]}
    folder = build_fusion_study(path, **{"fusion": one, **SMALL, **options})
    return folder, fusion_section(read_judged_study(folder), 0)[1]


@pytest.fixture(scope="module")
def robust(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFolder, dict[str, str]]:
    """One fusion of four experts and a full network, in four conditions, with noise as OOD set."""
    drawn = drawn_scores(labels_of(24, 6), 6, conditions=len(ROBUST))

    def outside(entry: str, seed: int) -> np.ndarray:
        return np.random.default_rng(len(entry) + seed).normal(size=(15, 6)).astype(np.float32)

    return fusion_of(
        tmp_path_factory.mktemp("robust"),
        scores=drawn,
        conditions=ROBUST,
        ood={"gaussian-noise": outside},
        protocol={
            "name": "image-robustness",
            "options": {"ood": ["gaussian-noise", "images:/pictures/svhn.zip"]},
        },
    )


def test_columns_are_the_promised_ones(robust: tuple[StudyFolder, dict[str, str]]) -> None:
    files = robust[1]
    assert header(files["matrix.csv"]) == MATRIX
    assert header(files["evaluation.csv"]) == EVALUATION
    assert header(files["ood.csv"]).startswith(OOD)
    assert header(files["cost.csv"]).startswith(COST)
    assert [c for c in header(files["diversity.csv"]).split() if c in DIVERSITY.split()] == (
        DIVERSITY.split()
    )


def test_logs_have_the_columns_of_the_reference_and_the_promised_more(
    robust: tuple[StudyFolder, dict[str, str]],
) -> None:
    files = robust[1]
    log = files["csv_logs/resnet_fusions/resnet_multiplicative_training_log.csv"]
    assert header(log) == FUSION_LOG
    experts = [f"csv_logs/resnet_experts/resnet_expert_{k}_training_log.csv" for k in range(4)]
    assert {header(files[name]) for name in experts} == {EXPERT_LOG}
    assert sum(name.startswith("csv_logs/") for name in files) == 5


def test_logs_hold_what_the_run_recorded(robust: tuple[StudyFolder, dict[str, str]]) -> None:
    folder, files = robust
    first, last = rows_of(files["csv_logs/resnet_fusions/resnet_multiplicative_training_log.csv"])
    recorded = {"epoch": "2", "train_loss": "1", "val_loss": "0.9", "val_accuracy": "0.7",
                "loss_global": "0.5", "loss_individual": "2", "loss_total": "1",
                "expert_0_accuracy": "0.6", "expert_3_accuracy": "0.63", "expert_3_loss": "1.1",
                "experts_lr": "0.0001", "alpha": "1", "fusion_type": "multiplicative",
                "model_architecture": "resnet", "seed": "0", "train_accuracy": "",
                "seconds": "3.5", "grad_norm_experts": "2", "grad_norm_fusion": "0.5"}  # fmt: skip
    assert {key: last[key] for key in recorded} == recorded
    assert first["loss_global"] == "1"
    run = next(run for spec, run in folder.runs() if spec.entry.name == "resnet-multiplicative")
    heartbeat = read_json(run.status)["heartbeat"]
    written = datetime.fromisoformat(last["timestamp"])
    assert written == datetime.fromtimestamp(int(heartbeat), UTC)


def test_an_expert_s_log_keeps_the_best_validation_so_far(tmp_path: Path) -> None:
    history = {"epoch": [1, 2, 3], "train_loss": [3, 2, 1], "train_acc": [None] * 3,
               "val_loss": [1, 2, 3], "val_acc": [0.5, 0.7, 0.6], "learning_rates": [0.1] * 3,
               "epoch_times": [1, 1, 1]}  # fmt: skip
    files = fusion_of(tmp_path, training=lambda *_: {"history": history})[1]
    rows = rows_of(files["csv_logs/resnet_experts/resnet_expert_0_training_log.csv"])
    assert [row["best_val_acc_so_far"] for row in rows] == ["0.5", "0.7", "0.7"]


def test_alpha_and_seed_enter_names_only_where_there_are_several(tmp_path: Path) -> None:
    one = {"families": ["improved-wide-resnet"], "types": ["TransformerBase"], "baselines": []}
    files = fusion_of(
        tmp_path,
        fusion={**one, "alphas": [0.5, 5]},
        partition={"experts": 2},
        seeds=(0, 3),
    )[1]
    place = "csv_logs/improved_wide_resnet_fusions/improved_wide_resnet_TransformerBase"
    logs = {name for name in files if "_fusions/" in name}
    assert logs == {
        f"{place}_alpha{alpha}_seed{seed}_training_log.csv"
        for alpha in ("0.5", "5")
        for seed in (0, 3)
    }
    matrix = rows_of(files["matrix.csv"])
    assert [row["alpha"] for row in matrix] == ["0.5", "5"]


def test_evaluation_has_a_row_per_head_and_condition(
    robust: tuple[StudyFolder, dict[str, str]],
) -> None:
    """Four experts, fused with four heads, full; averages and oracle before and after: 3 and 2."""
    rows = rows_of(robust[1]["evaluation.csv"])
    kinds = [row["model_type"] for row in rows if row["test_type"] == "clean"]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "expert": 4, "fused": 1, "cotrained-expert": 4, "resnet-full": 1,
        "cotrained-logits": 1, "cotrained-probabilities": 1, "cotrained-oracle": 1,
        "original-logits": 1, "original-probabilities": 1, "original-weighted": 1,
        "original-oracle": 1,
    }  # fmt: skip
    assert len(rows) == 4 * len(kinds)
    shown = {
        tuple(row[key] for key in ("test_type", "test_param", "corruption_type", "severity"))
        for row in rows
    }
    assert shown == {
        ("clean", "", "", ""),
        ("noise", "0.1", "", ""),
        ("corruption", "", "fog", "1"),
        ("corruption", "", "fog", "5"),
    }


def test_evaluation_counts_the_stored_scores(robust: tuple[StudyFolder, dict[str, str]]) -> None:
    """Right answers and log-likelihood of every head and condition, from the scores as drawn."""
    labels = labels_of(24, 6)
    drawn = drawn_scores(labels, 6, conditions=len(ROBUST))
    cells = [("clean", ""), ("noise", ""), ("corruption", "1"), ("corruption", "5")]
    checked = 0
    for row in rows_of(robust[1]["evaluation.csv"]):
        k = row["expert_id"]
        named = {
            "expert": (f"resnet-expert-{k}", ""),
            "fused": ("resnet-multiplicative", ""),
            "cotrained-expert": ("resnet-multiplicative", f"expert-{k}"),
            "resnet-full": ("resnet-full", ""),
        }.get(row["model_type"])
        if named is None:
            continue
        scores = drawn(named[0], 0, named[1])
        assert scores is not None
        at = scores[cells.index((row["test_type"], row["severity"]))].astype(float)
        shares = np.exp(at) / np.exp(at).sum(axis=1, keepdims=True)
        assert int(row["correct"]) == (at.argmax(axis=1) == labels).sum()
        assert float(row["accuracy"]) == int(row["correct"]) / 24
        nll = -np.log(shares[np.arange(24), labels]).mean()
        assert float(row["loss"]) == pytest.approx(nll, abs=1e-6)
        checked += 1
    assert checked == 40


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=40),
    st.lists(st.integers(0, 12), min_size=1, max_size=40),
)
def test_detection_is_scikit_learn_s_with_ties_too(outside: list[int], inside: list[int]) -> None:
    found = detection(np.array(outside, dtype=float), np.array(inside, dtype=float))
    truth = np.r_[np.ones(len(outside)), np.zeros(len(inside))]
    values = np.array(outside + inside, dtype=float)
    false, true, thresholds = roc_curve(truth, values, drop_intermediate=False)
    # 95 % of 20 is 19 exactly, which the product of doubles misses.
    first = int(np.argmax(true >= 0.95 - 1e-12))
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, values))
    assert found["aupr"] == pytest.approx(average_precision_score(truth, values))
    assert found["fpr95"] == pytest.approx(false[first])
    assert found["threshold"] == thresholds[first]
    assert found["detection_accuracy"] == pytest.approx(((true + 1 - false) / 2).max())


def test_energy_of_equal_logits_is_minus_the_log_of_their_number() -> None:
    assert energy(np.zeros((1, 8))) == pytest.approx([-np.log(8)])
    assert energy(np.array([[1000.0, 0.0]])) == pytest.approx([-1000.0])


def test_a_set_that_is_not_there_is_not_measured_never_a_number(
    robust: tuple[StudyFolder, dict[str, str]],
) -> None:
    rows = rows_of(robust[1]["ood.csv"])
    numbers = ("auroc", "aupr", "fpr95", "detection_accuracy", "threshold")
    by_set = {
        name: [r for r in rows if r["ood_dataset"] == name] for name in ("gaussian-noise", "svhn")
    }
    assert sum(map(len, by_set.values())) == len(rows) == 2 * 6 * 2
    assert {row[key] for row in by_set["svhn"] for key in (*numbers, "status")} == {NOT_MEASURED}
    assert {row["n_in"] + row["n_out"] for row in by_set["svhn"]} == {""}
    for row in by_set["gaussian-noise"]:
        assert (row["status"], row["n_in"], row["n_out"]) == ("measured", "24", "15")
        assert 0 <= float(row["auroc"]) <= 1
    assert ood_name("images:/pictures/svhn.zip") == "svhn"


def test_a_fused_system_costs_its_own_and_its_experts(
    robust: tuple[StudyFolder, dict[str, str]],
) -> None:
    """An expert: 1,000 parameters, 2,000 images, 6.5 s, 1 GiB. The fusion: 4,100, 500, 6.5, 2."""
    rows = {(r["kind"], r["entry"]): r for r in rows_of(robust[1]["cost.csv"])}
    experts = " ".join(f"resnet-expert-{k}" for k in range(4))
    numbers = COST.split()[1:]
    found = {place: [float(row[key]) for key in numbers] for place, row in rows.items()}
    gib = 2**30 / 1e9
    assert found["run", "resnet-expert-0"] == pytest.approx(
        [1000, 1000, 3 * 2000 * 2000, 2000, 6.5, gib]
    )
    assert found["run", "resnet-multiplicative"] == pytest.approx(
        [4100, 4100, 3 * 8200 * 500, 500, 6.5, 2 * gib]
    )
    assert found["system", "resnet-multiplicative"] == pytest.approx(
        [4100, 4100, 3 * 8200 * 500 + 4 * 12e6, 8500, 5 * 6.5, 2 * gib]
    )
    assert found["system", experts] == pytest.approx([4000, 4000, 4 * 12e6, 8000, 26, gib])


def test_a_cost_that_one_expert_lacks_is_unknown_for_the_system(tmp_path: Path) -> None:
    def lost(entry: str, seed: int) -> dict[str, Any]:
        del seed
        return {"samples_seen": None} if entry == "resnet-expert-1" else {}

    rows = rows_of(fusion_of(tmp_path, training=lost)[1]["cost.csv"])
    system = [row for row in rows if row["system"] == "fused"]
    assert [row["images_seen"] for row in system] == [""]
    assert [row["train_flops"] for row in system] == [""]
    assert [row["device_seconds"] for row in system] == ["32.5"]


def test_diversity_lists_pairs_and_sets_before_and_after_training_along(
    robust: tuple[StudyFolder, dict[str, str]],
) -> None:
    judged: JudgedStudy = read_judged_study(robust[0])
    rows = rows_of(robust[1]["diversity.csv"])
    assert [row["kind"] for row in rows] == [*["pair"] * 6, "set"] * 2
    assert [row["fusion_type"] for row in rows] == ["none"] * 7 + ["multiplicative"] * 7
    assert {row["cka"] for row in rows} == {""}
    right = {run.entry: run.correct[0] for run in judged.runs}
    for row in rows[:6]:
        first, second = (right[name] for name in row["members"].split())
        table = [first & second, first & ~second, ~first & second, ~first & ~second]
        assert [int(row[key]) for key in ("n11", "n10", "n01", "n00")] == [t.sum() for t in table]
    experts = np.stack([right[f"resnet-expert-{k}"] for k in range(4)])
    assert float(rows[6]["oracle"]) == experts.any(axis=0).mean()
    assert float(rows[6]["ambiguity"]) >= 0
