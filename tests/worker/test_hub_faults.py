"""Published weights and a hub that is away, slow, or has moved on: the cache, or a named cure; and
one version of the weights for all runs of a study."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from regatta.config.load import load_study
from regatta.config.schema import EntrySection
from regatta.core.errors import WeightsError
from regatta.models.spec import resolve_model
from regatta.models.weights import load_checkpoint, save_model
from regatta.records.run_folder import StudyFolder, open_study
from regatta.worker.pinned_weights import pinned
from tests.models.stub_hub import StubHub, stub_hub
from tests.test_bad_input import STUDY, write_videos
from tests.worker.test_trackers_down import never_answer, stub

NAME = "someone/cnn"
FIRST, SECOND = "a" * 40, "b" * 40
CLASSES = ["x", "y"]
OPTIONS = {"frames": 4}


def write_weights(folder: Path, seed: int) -> Path:
    entry = EntrySection(name="c", model="cnn3d", size="tiny", checkpoint="none", options=OPTIONS)
    spec = resolve_model(entry, 2, seed=seed)
    save_model(folder, spec.build(2), spec, CLASSES)
    return folder


def publish(hub: StubHub, root: Path) -> None:
    hub.commits = {c: write_weights(root / c, s) for c, s in ((FIRST, 1), (SECOND, 2))}
    hub.branches = {"main": FIRST}


def environment(home: Path, url: str) -> dict[str, str]:
    ours = ("HF_", "HUGGINGFACE_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    # Without a proxy of the user's: the stub is here.
    kept = {k: v for k, v in kept.items() if not k.lower().endswith("_proxy")}
    return {
        **kept,
        "HF_HOME": str(home),
        "HF_ENDPOINT": url,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_ETAG_TIMEOUT": "2",
        "HF_HUB_DOWNLOAD_TIMEOUT": "2",
    }


FETCH = """
import sys
from regatta.core.errors import RegattaError
from regatta.models.hub import checkpoint_folder
try:
    print("folder", checkpoint_folder(sys.argv[1]))
except RegattaError as error:
    print(type(error).__name__, error)
"""


def fetch(checkpoint: str, home: Path, url: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", FETCH, checkpoint],
        env=environment(home, url),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.fault(27)
def test_a_hub_that_is_away_or_refuses_is_named_with_the_cure_and_the_cache_serves_on(
    tmp_path: Path,
):
    home = tmp_path / "home"
    with stub_hub(NAME) as hub:
        publish(hub, tmp_path / "published")
        found = fetch(NAME, home, hub.url)
        assert found.strip().endswith(f"snapshots/{FIRST}")
        assert hub.asked
        hub.answer = 503
        told = fetch(NAME, tmp_path / "empty", hub.url)
        assert "EnvironmentFault" in told
        hub.answer = 401
        refused = fetch(NAME, tmp_path / "empty", hub.url)
        assert "EnvironmentFault" in refused
        hub.answer = 200
        moved = fetch(f"{NAME}@{'c' * 40}", tmp_path / "empty", hub.url)
        assert "EnvironmentFault" in moved
        url = hub.url
    # Now nobody listens there.
    away = fetch(NAME, tmp_path / "empty", url)
    for text in (told, refused, moved, away):
        assert f"checkpoint {NAME}" in text
        assert "is not in the cache and cannot be fetched" in text
        assert f"hf download {NAME}" in text
        assert "`checkpoint: none`" in text
    assert fetch(NAME, home, url) == found


@pytest.mark.fault(27)
def test_a_hub_that_never_answers_is_given_up_soon(tmp_path: Path):
    with stub(never_answer) as server:
        began = time.monotonic()
        told = fetch(NAME, tmp_path / "empty", f"http://127.0.0.1:{server.port}")
        took = time.monotonic() - began
        assert server.connections
    assert "EnvironmentFault" in told
    assert "hf download" in told
    assert took < 60


def worker(task: str, home: Path, cache: Path, url: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "regatta.worker", task, "--study", "runs/s", *arguments],
        cwd=home,
        env=environment(cache, url),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def begun_with(folder: StudyFolder) -> list[str]:
    found = [run.weights for _, run in folder.runs() if run.weights.is_file()]
    return [json.loads(path.read_text())["source"] for path in found]


@pytest.mark.fault(27)
@pytest.mark.slow
@pytest.mark.soak
def test_all_runs_of_a_study_start_from_one_commit_though_the_branch_moves(tmp_path: Path):
    study = STUDY.replace("checkpoint: none", f"checkpoint: {NAME}") + "seeds: [0, 1]\n"
    (tmp_path / "s.yaml").write_text(study)
    write_videos(tmp_path / "videos")
    folder = open_study(tmp_path / "runs", load_study(tmp_path / "s.yaml"))
    first, second = (spec.run_id for spec, _ in folder.runs())
    with stub_hub(NAME) as hub:
        publish(hub, tmp_path / "published")
        cache = tmp_path / "cache"
        worker("prepare", tmp_path, cache, hub.url)
        worker("train", tmp_path, cache, hub.url, "--runs", first)
        hub.branches["main"] = SECOND
        assert fetch(NAME, tmp_path / "elsewhere", hub.url).strip().endswith(SECOND)
        worker("train", tmp_path, cache, hub.url, "--runs", second)
    assert begun_with(folder) == [f"{NAME}@{FIRST}"] * 2
    # Another study starts from what the branch means by then; ours goes on without the hub.
    shutil.rmtree(folder.run(second).path / "model")
    folder.run(second).training_results.unlink()
    worker("train", tmp_path, cache, "http://127.0.0.1:9", "--runs", second)
    assert begun_with(folder) == [f"{NAME}@{FIRST}"] * 2


@pytest.mark.fault(27)
def test_the_commit_that_the_first_run_read_is_that_of_all_others(tmp_path: Path):
    study = STUDY.replace("checkpoint: none", f"checkpoint: {NAME}@v1") + "seeds: [0, 1]\n"
    (tmp_path / "s.yaml").write_text(study)
    folder = open_study(tmp_path / "runs", load_study(tmp_path / "s.yaml"))
    (first, run), (second, _) = folder.runs()
    assert pinned(folder, first.entry) == first.entry
    run.weights.write_text(json.dumps({"source": f"{NAME}@{FIRST}"}))
    assert pinned(folder, second.entry).checkpoint == f"{NAME}@{FIRST}"
    # Another branch, another model, a folder, random weights: what is asked for is taken.
    for other in (f"{NAME}@v2", "someone/else", NAME, f"{NAME}@{SECOND}", "none"):
        entry = second.entry.model_copy(update={"checkpoint": other})
        assert pinned(folder, entry) == entry
    # What is no commit pins nothing.
    run.weights.write_text(json.dumps({"source": f"{NAME}@v1"}))
    assert pinned(folder, second.entry) == second.entry


@pytest.mark.fault(27)
@pytest.mark.parametrize("change", ["missing", "unexpected", "reshaped", "head"])
def test_weights_are_refused_unless_only_the_head_is_new(tmp_path: Path, change: str):
    folder = write_weights(tmp_path / "weights", 1)
    path = folder / "model.safetensors"
    state = load_file(path)
    entry = EntrySection(
        name="c", model="cnn3d", size="tiny", checkpoint=str(folder), options=OPTIONS
    )
    spec = resolve_model(entry, 2, seed=5)
    heads = [key for key in state if key.startswith(spec.head_prefixes)]
    body = next(key for key in state if key not in heads and state[key].ndim > 1)
    if change == "missing":
        del state[body]
    elif change == "unexpected":
        state["stranger.weight"] = torch.zeros(3)
    elif change == "reshaped":
        state[body] = state[body][:-1].clone()
    save_file(state, path, metadata={"format": "pt"})
    module = spec.build(2)
    if change == "head":
        # The same number of classes, but others.
        report = load_checkpoint(module, spec, str(folder), classes=["x", "z"])
        assert set(report.new_head) == set(heads)
        assert set(report.loaded) == set(state) - set(heads)
        return
    before = {key: value.clone() for key, value in module.state_dict().items()}
    key = "stranger.weight" if change == "unexpected" else body
    with pytest.raises(WeightsError, match=f"{change}: .*{key}") as error:
        load_checkpoint(module, spec, str(folder), classes=CLASSES)
    assert error.value.hint
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
