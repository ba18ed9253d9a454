"""Promises of `regatta compare --import`, and of every other verb beside what was imported."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from regatta.analysis.compare import compare_study
from regatta.analysis.import_request import parse_request
from regatta.analysis.imported import import_predictions
from regatta.analysis.published import FAULTS, published_analysis
from regatta.cli.compare import published_lines
from regatta.cli.main import app
from regatta.config.expand import expand_study, protocol_id
from regatta.core.errors import ConfigError
from regatta.core.files import write_json
from regatta.orchestrate.plan import plan_study
from regatta.orchestrate.snapshot import StudyReader
from regatta.records.run_folder import StudyFolder
from tests.analysis.build import build_judged_study
from tests.analysis.test_published import grid_table
from tests.orchestrate.toy import Toy, toy_mapping, toy_study
from tests.records.foreign import export_csv, export_npz, predictions_of, tree, write_rows


def regatta(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "regatta", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def said(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What a verb prints, in this process."""
    app([str(each) for each in arguments], standalone_mode=False)
    return capsys.readouterr().out


def judged(path: Path) -> StudyFolder:
    options = {"entries": 2, "samples": 24, "protocol": "plain", "compare": {"replicates": 200}}
    return build_judged_study(path / "runs", **options)  # type: ignore[arg-type]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder. Verbs that listen for signals must not keep those of the tests."""
    heard = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in heard}
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)


def test_published_table_needs_no_study_and_its_file_only_once(place: Path) -> None:
    table = place / "per_class.csv"
    grid_table(lambda k, c, s: ((3 * k + c + s) % 20) / 20).to_csv(table, index=False)
    first = regatta("compare", "--import", f"videomae={table}", cwd=place)
    assert first.returncode == 0, first.stderr
    assert "imported videomae seed 0 from per_class.csv: 240 samples of 12 classes" in first.stdout
    table.unlink()
    second = regatta("compare", "imported", cwd=place)
    assert second.returncode == 0, second.stderr
    verdict = next(line for line in second.stdout.splitlines() if line.startswith("videomae is"))
    assert verdict in first.stdout
    assert "in 12 classes" in verdict


def test_published_statistics_are_printed_with_their_faults_after_the_verdict() -> None:
    """The numbers of the analysis itself, six digits each."""
    found = published_analysis(grid_table())
    lines = published_lines({"entries": {"videomae": found}, "faults": list(FAULTS)})
    (line,) = [text for text in lines if text.strip().startswith("videomae: ")]
    for axis in ("coverage", "stride"):
        test = found[f"anova_{axis}"]
        assert f"{axis} F({test['df_between']}, {test['df_within']}) = " in line
        for key in ("f_statistic", "p_value", "eta_squared"):
            assert f"= {test[key]:.6g}" in line
    assert f"Levene {found['variance_homogeneity']['levene_statistic']:.6g}" in line
    assert f"Welch t 10% vs 25% = {found['pairwise'][0]['t_statistic']:.6g}" in line
    assert "the verdict does not come from it" in " ".join(lines)
    for fault in FAULTS:
        assert f"  - {fault}" in lines
    assert published_lines(None) == []


def test_undefined_statistics_are_printed_with_their_reason() -> None:
    found = published_analysis(grid_table(lambda *_: 0.5))
    text = " ".join(published_lines({"entries": {"a": found}, "faults": []}))
    assert "not defined" in text
    assert "all values are equal" in text
    assert "nan" not in text.lower().split()


def test_json_is_json_alone_and_holds_the_published_analysis(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = place / "t.csv"
    grid_table(lambda k, c, s: ((3 * k + c + s) % 20) / 20).to_csv(table, index=False)
    found = json.loads(said(capsys, "compare", "--import", f"a={table}", "--json"))
    assert found["study"]["unit"] == "class"
    assert found["published"]["entries"]["a"]["anova_coverage"]["f_statistic"] is not None


def test_mistake_ends_with_exit_two_the_place_and_nothing_written(place: Path) -> None:
    path = place / "t.csv"
    path.write_text("sample_id,labl,score_a,score_b\nx,a,1,2\n")
    before = tree(place)
    child = regatta("compare", "--import", path, cwd=place)
    assert child.returncode == 2
    assert child.stderr.startswith("error: there is no column 'label'")
    assert "did you mean 'label' by 'labl'?" in child.stderr
    assert "Traceback" not in child.stderr
    assert tree(place) == before


def test_help_explains_the_kinds_of_files(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(said(capsys, "compare", "--help").split())
    for words in ("score_0 ..", "scores [N, K] or [C, N, K]", "class, accuracy, n_samples"):
        assert words in text


def test_contradicting_words_are_refused(place: Path) -> None:
    for arguments in (
        ["compare", "race", "--import", "x.csv", "--name", "y"],
        ["compare", "--name", "y"],
    ):
        with pytest.raises(ConfigError):
            app(arguments, standalone_mode=False)


def test_study_file_that_was_never_run_is_no_place_for_an_import(place: Path) -> None:
    folder = judged(place)
    path = export_csv(place / "t.csv", predictions_of(folder, "videomae"))
    (place / "race.yaml").write_text("data: {source: rotors}\nentries: [vivit]")
    child = regatta("compare", "race.yaml", "--import", path, cwd=place)
    assert child.returncode == 2
    assert "not a study folder" in child.stderr
    assert not (place / "runs" / "race").exists()


def test_entry_beside_a_study_stays_in_it_and_says_how_to_keep_it(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = judged(place)
    path = export_npz(place / "t.npz", predictions_of(folder, "videomae"))
    text = said(capsys, "compare", "demo", "--import", f"theirs={path}", "--mix-protocols")
    assert "  entries: - {name: theirs, model: imported}" in text
    assert "  compare: {mix_protocols: true}" in text
    assert "note: imported: how theirs was judged is not known here" in text
    path.unlink()
    again = said(capsys, "compare", "demo")
    assert "note: imported: how theirs was judged is not known here" in again
    assert folder.study().compare.mix_protocols is True


def test_mixing_may_be_allowed_later_and_is_kept(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = judged(place)
    marker = folder.runs()[0][1].predictions(protocol_id(folder.study().protocol))
    content = json.loads((marker / "complete.json").read_text())
    content["fingerprint"]["decoder"] = "other 2"
    write_json(marker / "complete.json", content)
    child = regatta("compare", "demo", cwd=place)
    assert child.returncode == 1
    assert "decoder" in child.stderr
    assert "--mix-protocols" in child.stderr
    said(capsys, "compare", "demo", "--mix-protocols")
    assert "note: judged differently: decoder is 'other 2'" in said(capsys, "compare", "demo")


@pytest.fixture
def mixed(place: Path) -> StudyFolder:
    """A judged study with an imported entry, not compared yet."""
    folder = judged(place)
    path = export_csv(place / "t.csv", predictions_of(folder, "videomae"))
    request = parse_request(f"theirs={path}")
    import_predictions(place / "runs", [request], target=folder, mix_protocols=True)
    return folder


def test_imported_run_is_shown_as_such_and_has_no_task(
    mixed: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    view = StudyReader(mixed).read()
    assert view.counts == {"done": 2, "imported": 1}
    assert "demo: 2 done, 1 imported; nothing is running" in said(capsys, "status", "demo")
    assert "1 imported" in said(capsys, "watch", "demo").splitlines()[-1]
    study = mixed.study()
    imported = {s.run_id for s in expand_study(study) if s.entry.is_imported}
    assert len(imported) == 1
    for task in plan_study(mixed, study).tasks:
        assert not imported & set(task.run_ids)


def test_trained_entry_that_is_not_judged_is_planned_without_the_imported_one(
    mixed: StudyFolder,
) -> None:
    study = mixed.study()
    own = next(s for s in expand_study(study) if not s.entry.is_imported)
    (mixed.run(own.run_id).predictions(protocol_id(study.protocol)) / "complete.json").unlink()
    plan = plan_study(mixed, study)
    assert plan.run_ids("train") == set()
    assert plan.run_ids("judge") == {own.run_id}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "demo", "--entry", "theirs"], "have no model that could be exported"),
        (["train", "demo", "--model", "theirs"], "never trained and never judged"),
        (["evaluate", "demo", "--model", "theirs,vivit"], "there is no entry named 'vivit'"),
        (["evaluate", "demo", "--model", "theirs"], "never trained and never judged"),
        (["profile", "demo", "--model", "theirs"], "never trained and never judged"),
    ],
)
def test_verbs_that_need_a_model_refuse_an_imported_entry(
    mixed: StudyFolder, arguments: list[str], words: str
) -> None:
    assert mixed.study_yaml.is_file()
    with pytest.raises(ConfigError) as caught:
        app(arguments, standalone_mode=False)
    assert words in str(caught.value)


@pytest.fixture
def foreign(place: Path) -> Path:
    """A study of one imported table."""
    rows = [("run", 0.5, 4), ("sit", 1, 3)]
    path = write_rows(place / "t.csv", ["class", "accuracy", "n_samples"], rows)
    import_predictions(place / "runs", [parse_request(f"a={path}")])
    return place


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "imported"],
        ["train", "imported"],
        ["evaluate", "imported"],
        ["profile", "imported"],
        ["check", "runs/imported/study.yaml"],
    ],
)
def test_study_of_imports_alone_is_not_run_and_says_what_it_is(
    foreign: Path, arguments: list[str]
) -> None:
    before = tree(foreign / "runs")
    with pytest.raises(ConfigError) as caught:
        app(arguments, standalone_mode=False)
    assert "holds imported predictions only" in str(caught.value)
    assert "regatta compare imported" in str(caught.value)
    assert tree(foreign / "runs") == before


def test_study_of_imports_alone_has_a_state_and_nothing_to_export(
    foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "1 imported" in said(capsys, "status")
    with pytest.raises(ConfigError, match="no model that could be exported"):
        app(["export", "imported"], standalone_mode=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: {source: imported}\nentries: [vivit]", "nothing to judge"),
        ("data: {source: rotors}\nprotocol: {name: imported}\nentries: [vivit]", "protocol.name"),
        (
            "data: {source: rotors}\nentries: [{model: imported, name: a, train: {lr: 1}}]",
            "takes no settings but options.seeds",
        ),
        (
            "data: {source: rotors}\n"
            "entries: [vivit, {model: imported, name: a, options: {seeds: 3}}]",
            "seeds are a list of distinct whole numbers",
        ),
    ],
)
def test_study_files_that_mistake_what_imported_means_are_refused(
    place: Path, text: str, words: str
) -> None:
    (place / "s.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        app(["check", "s.yaml"], standalone_mode=False)
    assert words in str(caught.value)


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    mapping = toy_mapping()
    mapping["entries"].append({"name": "theirs", "model": "imported"})
    with toy_study(tmp_path) as study:
        yield Toy(study.root, mapping)


def test_run_trains_and_judges_the_others_and_leaves_the_imported_entry_alone(toy: Toy) -> None:
    theirs = next(spec for spec in toy.specs if spec.entry.is_imported)
    run = toy.folder.run(theirs.run_id)
    first = toy.call("run")
    assert first.code == 0, first.output
    assert not run.path.exists()
    parts = run.predictions(protocol_id(toy.study.protocol))
    write_json(parts / "complete.json", {"parts": {}})
    before = tree(run.path)
    again = toy.call("run")
    assert again.code == 0, again.output
    assert tree(run.path) == before
    kinds = [start["kind"] for start in toy.starts()]
    assert kinds.count("train") == 2
    # What was imported is new, so results and page are made again.
    assert kinds.count("compare") == 2
    started = {name for start in toy.starts() for name in start.get("names", [])}
    assert "theirs" not in started


def test_run_with_a_file_that_forgot_the_imported_entry_says_so(toy: Toy) -> None:
    assert toy.call("run").code == 0
    forgot = Toy(toy.root, toy_mapping())
    output = forgot.call("run").output
    assert "theirs, which was imported, is no part of it now" in output
    assert "- {name: theirs, model: imported}" in output


def test_comparison_is_the_same_whoever_asks(place: Path, mixed: StudyFolder) -> None:
    """The report reads the study that the flag was saved in, so it compares as the verb did."""
    from regatta.report.material import read_material

    assert read_material(mixed).comparison["verdict"] == compare_study(mixed)["verdict"]
