"""Model cards: the head is what the hub reads, the numbers are the comparison's, names are text."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from regatta.analysis.import_request import parse_request
from regatta.analysis.imported import import_predictions
from regatta.core.files import read_json, write_json
from regatta.records.run_folder import StudyFolder
from regatta.report.card_head import model_index, yaml_text
from regatta.report.card_results import results
from regatta.report.entry_cards import card_path, entry_cards, entry_facts
from regatta.report.material import read_material
from regatta.report.model_export import export_models
from regatta.report.page import write_report
from regatta.report.style import clean_text
from tests.analysis.build import build_judged_study
from tests.report.conftest import HOSTILE_CLASSES, SECRET, small_study
from tests.report.markup import parse
from tests.report.sensor_build import build_sensor_study
from tests.report.test_model_export import write_model_folder

CNN1D = {"name": "cnn1d", "model": "cnn1d"}


def cards_of(folder: StudyFolder) -> dict[str, str]:
    return {p.stem: p.read_text(encoding="utf-8") for p in (folder.report / "cards").iterdir()}


def head_of(card: str) -> dict[str, Any]:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("\n---\n")[0])


def metrics_of(card: str) -> list[dict[str, Any]]:
    ((result,),) = [model["results"] for model in head_of(card)["model-index"]]
    return result["metrics"]


def rows_of(card: str, heading: str) -> dict[str, list[str]]:
    """First cell -> the others, of the table whose heading row begins so."""
    table = card[card.index(f"| {heading} |") :].split("\n\n")[0]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return {line[0]: line[1:] for line in lines}


@pytest.fixture(scope="module")
def grid_cards(grid_report: StudyFolder) -> dict[str, str]:
    return cards_of(grid_report)


def test_every_entry_has_a_card_that_the_page_links(
    grid_report: StudyFolder, grid_cards: dict[str, str]
) -> None:
    assert set(grid_cards) == {"timesformer", "videomae"}
    root = parse((grid_report.report / "report.html").read_text(encoding="utf-8"))
    links = [a.attributes["href"] for a in root.by_id("raced").all("a")]
    assert {"cards/timesformer.md", "cards/videomae.md"} <= set(links)


def test_the_head_holds_the_accuracy_of_the_comparison(
    grid_report: StudyFolder, grid_cards: dict[str, str]
) -> None:
    entries = read_json(grid_report.results / "comparison.json")["entries"]
    for entry in entries:
        head = head_of(grid_cards[entry["name"]])
        assert head["pipeline_tag"] == "video-classification"
        assert "license" not in head
        ((model,),) = [head["model-index"]]
        assert model["name"] == entry["name"]
        (result,) = model["results"]
        assert result["task"]["type"] == "video-classification"
        assert result["dataset"] == {"name": "rotors", "type": "rotors", "split": "test"}
        (metric,) = result["metrics"]
        accuracy = entry["accuracy"]
        assert (metric["type"], metric["verified"]) == ("accuracy", False)
        assert metric["value"] == pytest.approx(accuracy["estimate"], abs=5e-5)
        ends = f"95 % interval {accuracy['low']:.4f} to {accuracy['high']:.4f}"
        assert f"{ends}, at coverage 100 %, stride 1" in metric["name"]
    assert "mean of 2 seeds" in metrics_of(grid_cards["timesformer"])[0]["name"]


def test_the_hubs_own_reader_gives_the_results_back(grid_cards: dict[str, str]) -> None:
    hub = pytest.importorskip("huggingface_hub")
    for name, text in grid_cards.items():
        card = hub.ModelCard(text)
        (found,) = card.data.eval_results
        (metric,) = metrics_of(text)
        assert (found.metric_type, found.metric_value) == ("accuracy", metric["value"])
        assert (found.metric_name, found.verified) == (metric["name"], False)
        assert (found.dataset_type, found.dataset_split) == ("rotors", "test")
        assert found.task_type == "video-classification"
        again = yaml.safe_load(card.data.to_yaml())
        assert again["model-index"][0]["name"] == name
        assert again == head_of(text)


def test_the_card_names_its_runs_and_their_own_accuracies(
    grid_report: StudyFolder, grid_cards: dict[str, str]
) -> None:
    (entry,) = [
        e
        for e in read_json(grid_report.results / "comparison.json")["entries"]
        if e["name"] == "timesformer"
    ]
    rows = rows_of(grid_cards["timesformer"], "run")
    assert list(rows) == entry["runs"]
    shown = [row[-1] for row in rows.values()]
    assert shown == [f"{100 * value:.1f}" for value in entry["accuracy_by_seed"].values()]
    # Of the second entry one run is not judged; it is not among its runs.
    assert len(rows_of(grid_cards["videomae"], "run")) == 1
    assert "This seed alone" not in grid_cards["timesformer"]


def test_the_card_tells_cost_budget_recipe_limits_and_the_way_to_the_model(
    grid_cards: dict[str, str],
) -> None:
    card = grid_cards["videomae"]
    cost = rows_of(card, "cost, mean of the runs")
    assert cost["training time"] == ["15 s"]
    assert cost["peak memory"] == ["1.25 GiB"]
    assert cost["epochs"] == ["5"]
    assert cost["training energy"] == ["not measured"]
    assert rows_of(card, "setting")["epochs"] == ["5"]
    assert "Meant for telling the classes above apart" in card
    assert "regatta export demo --entry videomae" in card


def test_licences_that_nobody_stated_are_called_so(
    grid_cards: dict[str, str], tmp_path: Path
) -> None:
    assert "Data (rotors): generated by Regatta" in grid_cards["videomae"]
    assert "it started from random numbers" in grid_cards["videomae"]
    folder = build_sensor_study(tmp_path, [CNN1D], windows=36, epochs=1)
    (card,) = entry_cards(read_material(folder)).values()
    assert "Data (uci-har): not stated. Regatta does not know it: look it up" in card
    assert head_of(card)["model-index"][0]["results"][0]["dataset"]["type"] == "uci-har"


def test_the_card_of_windows_speaks_of_windows(tmp_path: Path) -> None:
    folder = build_sensor_study(
        tmp_path, [CNN1D], windows=36, epochs=1, data={"design": "window-random"}
    )
    (card,) = entry_cards(read_material(folder)).values()
    head = head_of(card)
    assert "pipeline_tag" not in head
    result = head["model-index"][0]["results"][0]
    assert result["task"]["type"] == "time-series-classification"
    assert "leaky" in result["dataset"]["name"]
    said = card.replace("clip\\_norm", "")
    assert not re.search(r"\b(clip|clips|frame|frames|video|coverage|stride)\b", said)


def test_of_folds_the_card_says_that_each_was_judged_by_its_own_model(tmp_path: Path) -> None:
    folder = build_sensor_study(tmp_path, [CNN1D], windows=36, epochs=1)
    facts = entry_facts(read_material(folder), "cnn1d")
    facts = replace(facts, spec=replace(facts.spec, fold=1))
    said = " ".join(results(facts, of_one_run=False))
    assert "over all folds, each judged by a model that had not seen it, at" in said
    assert "this one is of fold 1" in " ".join(results(facts))
    (model,) = model_index(facts, name="cnn1d", task="x", of_one_run=True)
    (metric,) = model["results"][0]["metrics"]
    assert metric["name"].endswith("over all folds, each judged by its own model")


def test_the_card_of_imported_predictions_claims_nothing_about_the_model(tmp_path: Path) -> None:
    lines = ["sample_id,label,score_0,score_1"]
    lines += [f"s{n:02d},{n % 2},{0.9 if n % 4 else 0.1},0.5" for n in range(24)]
    (tmp_path / "theirs.csv").write_text("\n".join(lines) + "\n")
    request = parse_request(f"theirs={tmp_path / 'theirs.csv'}")
    study = import_predictions(tmp_path / "runs", [request])
    (card,) = entry_cards(read_material(study.folder)).values()
    head = head_of(card)
    assert not {"library_name", "pipeline_tag", "base_model"} & set(head)
    # The answer is class 1 where 4 divides n, whose truth is 0, and class 0 elsewhere: right for
    # the even n that 4 does not divide, a quarter.
    assert metrics_of(card)[0]["value"] == 0.25
    assert "Regatta neither trained nor judged this model" in card
    assert "not stated" in card
    for word in ("Recipe", "export", "never share", "clip", "window", "random numbers"):
        assert word not in card


def test_hostile_names_are_text_in_every_card(hostile_report: StudyFolder) -> None:
    (card,) = cards_of(hostile_report).values()
    assert SECRET not in card
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(card)
    tags = {element.tag for element in parse(html).everything()}
    assert not tags & {"img", "script", "em", "a"}
    shown = " ".join(parse(html).text().split())
    assert clean_text(HOSTILE_CLASSES[0]) in shown
    assert list(head_of(card)) == ["library_name", "tags", "pipeline_tag", "model-index"]


@given(st.text(max_size=60))
def test_any_text_reads_back_from_the_head_as_one_line(text: str) -> None:
    written = f"---\n{yaml_text({'tags': [text], 'after': 'x'})}---\n"
    head = written.split("\n---\n")
    assert len(head) == 2
    assert yaml.safe_load(head[0]) == {"tags": [clean_text(text)], "after": "x"}


def test_cards_of_former_entries_go_and_a_users_own_file_stays(tmp_path: Path) -> None:
    folder = small_study(tmp_path)
    for name in ("former.md", "thesis.txt"):
        (folder.report / "cards").mkdir(parents=True, exist_ok=True)
        (folder.report / "cards" / name).write_text("x")
    write_report(folder)
    names = {path.name for path in (folder.report / "cards").iterdir()}
    assert names == {"timesformer.md", "thesis.txt"}


def test_the_models_own_record_tells_what_it_takes_where_it_is_at_hand(tmp_path: Path) -> None:
    folder = small_study(tmp_path)
    (card,) = entry_cards(read_material(folder)).values()
    assert "8 RGB frames of 32 x 32 pixels" in card
    ((_, run),) = folder.runs()
    write_model_folder(run.model, read_json(folder.data_json)["classes"])
    (card,) = entry_cards(read_material(folder)).values()
    assert "16 RGB frames of 32 x 32 pixels" in card
    (run.model / "config.json").write_text("[cut")
    (card,) = entry_cards(read_material(folder)).values()
    assert "8 RGB frames of 32 x 32 pixels" in card


def test_without_records_the_card_says_not_measured(tmp_path: Path) -> None:
    folder = small_study(tmp_path, samples_per_group=24)
    ((_, run),) = folder.runs()
    run.training_results.unlink()
    folder.data_json.unlink()
    (card,) = entry_cards(read_material(folder)).values()
    assert rows_of(card, "cost, mean of the runs")["training time"] == ["not measured"]
    (metric,) = metrics_of(card)
    assert metric["name"].startswith("Accuracy, no interval")
    assert not re.search(r"\b(None|nan|NaN)\b", card)


def test_the_card_names_no_folder_of_the_disk(tmp_path: Path) -> None:
    folder = small_study(tmp_path)
    write_json(folder.data_json, {**read_json(folder.data_json), "notes": [f"read {SECRET}/a"]})
    (card,) = entry_cards(read_material(folder)).values()
    assert SECRET not in card
    assert str(tmp_path) not in card


def test_an_exported_model_has_its_own_accuracy_first(tmp_path: Path) -> None:
    folder = build_judged_study(
        tmp_path / "runs", entries=["vivit"], samples=24, seeds=(3, 5), compare={"replicates": 200}
    )
    for _, run in folder.runs():
        write_model_folder(run.model, read_json(folder.data_json)["classes"])
    (plain,) = export_models(folder, tmp_path / "before")
    assert "model-index" not in head_of((plain.path / "README.md").read_text())
    entry = read_material(folder).comparison["entries"][0]
    (model,) = export_models(folder, tmp_path / "out", seed=5)
    own, mean = metrics_of((model.path / "README.md").read_text())
    assert own["value"] == pytest.approx(entry["accuracy_by_seed"]["5"], abs=5e-5)
    assert own["name"] == "Accuracy of this seed, at coverage 100 %, stride 1"
    assert mean["value"] == pytest.approx(entry["accuracy"]["estimate"], abs=5e-5)
    hub = pytest.importorskip("huggingface_hub")
    read = hub.ModelCard((model.path / "README.md").read_text()).data.eval_results
    assert [r.metric_value for r in read] == [own["value"], mean["value"]]


def test_the_path_of_a_card_stays_in_its_folder() -> None:
    assert card_path("vivit-2.b") == "cards/vivit-2.b.md"
    assert ".." not in card_path("../../x")
