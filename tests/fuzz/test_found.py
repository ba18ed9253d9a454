"""What fuzzing found, each with the smallest input that shows it. All of these were tracebacks,
hangs, memory without end, or settings that changed unseen."""

from __future__ import annotations

import io
import json
import time
import warnings
import zipfile
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regatta.analysis.import_request import parse_request
from regatta.config.launch import time_minutes
from regatta.config.load import load_study, study_from_mapping
from regatta.config.strict_yaml import read_yaml
from regatta.core.errors import ConfigError, DataError, RecordError, RegattaError, WeightsError
from regatta.core.files import path_under, read_json, read_json_lines
from regatta.core.json_text import parse_json
from regatta.data.decode import probe
from regatta.data.import_cifar import read_pickle
from regatta.data.import_tensors import import_file
from regatta.data.manifest import Manifest
from regatta.data.sources._class_numbers import name_labels
from regatta.data.sources.image_folder import image_folder
from regatta.data.sources.kinetics import read_kinetics
from regatta.data.sources.manifest_list import read_manifest_list
from regatta.data.sources.ssv2 import read_ssv2
from regatta.data.sources.ucf101 import read_ucf101
from regatta.data.sources.windows_file import windows_file
from regatta.data.video_files import write_video
from regatta.data.windows import WindowStore
from regatta.models.weights import read_labels
from regatta.orchestrate.snapshot import StudyReader
from regatta.records.class_counts import class_table, read_class_counts
from regatta.records.conditions import Condition
from regatta.records.film import read_film
from regatta.records.imports import check_columns, read_foreign
from regatta.records.lease import holder, refuse_if_held
from regatta.records.metrics_stream import read_metrics
from regatta.records.predictions import complete_record, read_run_predictions
from regatta.records.run_folder import RunFolder, open_study
from regatta.records.status import Status, read_status
from regatta.records.submission import read_submission
from regatta.training.checkpoint import SavedRun, pick_slot, read_slot, write_slot
from tests.data.image_files import write_tree, zip_of
from tests.fuzz.runner import wrong_message
from tests.fuzz.tables_targets import _npy, _zipped, sample
from tests.fuzz.text_targets import STUDY


def told(error: pytest.ExceptionInfo[Any]) -> str:
    """The message, which names a place and can be shown."""
    assert isinstance(error.value, RegattaError)
    assert wrong_message(error.value) == ""
    return str(error.value)


def bomb() -> str:
    """64 lines that stand for 3 ** 21 values, each alias used three times."""
    levels = ["a0: &a0 [x, x, x]"]
    levels += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 21)]
    return "\n".join(levels)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        pytest.param(bomb(), "more than 100000 values", id="aliases of aliases"),
        pytest.param("a: &a [*a]", "holds itself", id="a circle"),
        pytest.param("[" * 5000, "nested deeper", id="depth"),
        pytest.param(f"a: {'9' * 30}", "64 bits", id="a wide number"),
        pytest.param("a: !!int ''", "is no int", id="an empty number"),
        pytest.param("a: !!bool maybe", "is no bool", id="no truth value"),
        pytest.param("a: !!binary AAAA", "constructor", id="bytes"),
        pytest.param("a: !!set {x}", "constructor", id="a set"),
    ],
)
def test_yaml_that_cannot_be_written_as_a_study_is_refused_at_once(text: str, word: str):
    before = time.process_time()
    with pytest.raises(ConfigError) as error:
        read_yaml(text, where="s.yaml")
    assert word in told(error)
    assert time.process_time() - before < 2


def test_yaml_merges_and_dates_mean_what_they_say():
    text = "base: &b {lr: 1, epochs: 2}\ntop: {<<: *b, lr: 3}\nday: 2020-01-01"
    found = read_yaml(text, where="s.yaml")
    assert found["top"] == {"lr": 3, "epochs": 2}
    assert found["day"] == "2020-01-01"
    with pytest.raises(ConfigError, match="written twice"):
        read_yaml("top: {<<: {a: 1}, b: 1, b: 2}", where="s.yaml")


def test_a_setting_that_is_not_finite_is_refused_and_not_written_as_nothing():
    content = read_yaml(STUDY, where="s.yaml")
    content["data"]["options"]["noise"] = float("inf")
    with pytest.raises(ConfigError) as error:
        study_from_mapping(content, where="s.yaml")
    assert "data: options holds a number that is not finite" in told(error)


@pytest.mark.parametrize("base", ["x" * 5000, "a\0b"], ids=["long", "zero"])
def test_a_base_that_no_file_can_be_is_named(tmp_path: Path, base: str):
    (tmp_path / "s.yaml").write_text(f"extends: {json.dumps(base)}\n")
    with pytest.raises(ConfigError) as error:
        load_study(tmp_path / "s.yaml")
    told(error)


def test_words_of_the_command_line_may_be_of_any_length():
    assert time_minutes("9" * 5000) == 0
    assert parse_request("x" * 5000).path == Path("x" * 5000)
    assert parse_request("~nobody-of-this-name/x.csv").path.name == "x.csv"
    with pytest.raises(ConfigError) as error:
        parse_request(f"a@{'9' * 5000}=x.csv")
    told(error)


JSON = {
    "depth": "[" * 100_000,
    "depth that can be read": "[" * 500 + "]" * 500,
    "digits": "9" * 5000,
    "beyond 64 bits": "18446744073709551616",
    "too large": "[1e999]",
    "no number": "[NaN]",
}


def test_half_a_character_is_taken_from_records_of_names_alone(tmp_path: Path):
    """A file may have a name that is no Unicode, and a record of it can be read again."""
    (tmp_path / "a.json").write_text('["\\ud800"]')
    assert read_json(tmp_path / "a.json") == ["\ud800"]
    with pytest.raises(ValueError, match="surrogates"):
        parse_json('["\\ud800"]')


@pytest.mark.parametrize("text", JSON.values(), ids=JSON.keys())
def test_json_that_cannot_be_written_again_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(RecordError) as error:
        read_json(path)
    told(error)
    path.write_text(f"{text}\n{{}}\n{{}}\n")
    with pytest.raises(RecordError, match="line is not JSON"):
        read_json_lines(path)


def test_json_of_usual_kinds_is_read_as_ever():
    text = '{"a": [1, -2.5e3, 18446744073709551615, 1e-400], "b": "\\ud83d\\ude00 \\u00e9"}'
    assert parse_json(text) == json.loads(text)


PROCESS = {"host": "elsewhere", "pid": 12, "started": "7", "boot": "x"}


@pytest.mark.parametrize(
    "change",
    [
        {"step": "3"},
        {"step": -1},
        {"epoch": 1.5},
        {"state": "runnin"},
        {"metric": "high"},
        {"cause": 7},
        {"heartbeat": None},
        {"process": {**PROCESS, "pit": 1}},
        {"process": {**PROCESS, "pid": "1"}},
        {"process": {"host": "elsewhere"}},
    ],
    ids=str,
)
def test_a_status_whose_fields_are_of_another_kind_is_damaged(tmp_path: Path, change: Any):
    path = tmp_path / "status.json"
    path.write_text(json.dumps({**asdict(Status("running")), "process": PROCESS, **change}))
    with pytest.raises(RecordError) as error:
        read_status(path)
    told(error)


def test_a_study_is_shown_whatever_stands_in_its_small_files(tmp_path: Path):
    study = study_from_mapping(read_yaml(STUDY, where="s"), where="s")
    folder = open_study(tmp_path, study)
    run = folder.runs()[0][1]
    folder.prepare_status.write_text("[]")
    run.status.write_text('{"state": "running", "process": {"pid": []}}')
    run.metrics.write_text('{"split": "validation", "accuracy": 1e999}\n[]\n7\n')
    view = StudyReader(folder).read(curves=True)
    assert view.problem == ""
    assert {row.status.state for row in view.rows} == {"pending"}
    run.run_json.write_text("[]")
    with pytest.raises(RecordError) as error:
        RunFolder(run.path).info()
    told(error)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"pid": 1}', json.dumps({**PROCESS, "pid": []})])
def test_a_lease_that_names_no_process_is_free(tmp_path: Path, text: str):
    path = tmp_path / "lease.json"
    path.write_text(text)
    assert holder(path) is None
    refuse_if_held(path)


def test_small_records_with_numbers_of_another_kind_are_damaged(tmp_path: Path):
    path = tmp_path / "submission.json"
    record = {"token": "t", "state": "closed", "stages": [], "scheduler": "slurm"}
    path.write_text(json.dumps({**record, "submitted_at": 10**400}))
    with pytest.raises(RecordError) as error:
        read_submission(path)
    told(error)
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": "3"}\n{"step": 4}\n')
    with pytest.raises(RecordError) as error:
        read_metrics(path)
    told(error)


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"], ids=ascii)
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str):
    with pytest.raises(DataError) as error:
        path_under(tmp_path, name)
    told(error)


@pytest.mark.parametrize("number", ["9" * 5000, "²", "٣"])
def test_class_numbers_of_ucf101_are_plain(tmp_path: Path, number: str):
    (tmp_path / "ucfTrainTestlist").mkdir()
    (tmp_path / "ucfTrainTestlist" / "classInd.txt").write_text(f"{number} Archery\n")
    with pytest.raises(DataError) as error:
        read_ucf101(tmp_path, split=1, seed=0)
    assert "classInd.txt:1" in told(error)


def test_lists_of_kinetics_with_odd_fields(tmp_path: Path):
    header = "label,youtube_id,time_start,time_end,split\n"
    for part in ("train", "validate"):
        row = f"a\0b,-_{part[0] * 9},0,10,{part}\n"
        (tmp_path / f"{part}.csv").write_text(header + row)
    found = read_kinetics(tmp_path, split=1, seed=0)
    assert {row.label_name for row in found.rows} == {"a\0b"}
    (tmp_path / "train.csv").write_text(f'{header}"{"x" * 200_000}",a,0,1,train\n')
    with pytest.raises(DataError) as error:
        read_kinetics(tmp_path, split=1, seed=0)
    assert "train.csv:2" in told(error)


@pytest.mark.parametrize(
    ("labels", "entry"),
    [
        ('{"A": "0"}', '[{"id": "a\\u0000b", "template": "A"}]'),
        ('{"A": "0"}', '[{"id": "a", "template": "\\ud800"}]'),
        ('{"\\ud800": "0"}', "[]"),
        ("[" * 100_000, "[]"),
    ],
)
def test_lists_of_ssv2_with_odd_texts(tmp_path: Path, labels: str, entry: str):
    (tmp_path / "labels.json").write_text(labels)
    for part in ("train", "validation"):
        (tmp_path / f"{part}.json").write_text(entry)
    with pytest.raises(DataError) as error:
        read_ssv2(tmp_path, split=1, seed=0)
    told(error)


@pytest.mark.parametrize("number", ["9" * 5000, "9" * 30, "²"])
def test_frame_numbers_of_a_list_are_plain(tmp_path: Path, number: str):
    rows = f"video_path,label,end_frame\na.mp4,x,{number}\n"
    (tmp_path / "manifest.csv").write_text(rows)
    with pytest.raises(DataError) as error:
        read_manifest_list(tmp_path, split=1, seed=0)
    assert "manifest.csv:2" in told(error)


def array_with_header(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


TEXTS = _npy(np.array(["a", "b"]))
SAMPLES = np.zeros((2, 1, 4), np.float32)
ARRAYS = {
    "a member that is no array": {"samples.npy": b"no array"},
    "an open bracket": {"labels.npy": array_with_header(b"{'descr': '<i8', (\n")},
    "a set of sets": {"labels.npy": array_with_header(b"{{1}}\n")},
    "a wide shape": {
        "labels.npy": array_with_header(
            b"{'descr': '<i8', 'fortran_order': False, 'shape': (9223372036854775808,), }\n"
        )
    },
    "letters beyond Unicode": {"labels.npy": TEXTS.replace(b"a\0\0\0", b"\0\0\0\x7f")},
    "no dimension": {"labels.npy": _npy(np.array(1))},
    "a rate in words": {"rate_hz.npy": _npy(np.array("fast"))},
    "a rate of nothing": {"rate_hz.npy": _npy(np.array(np.nan))},
    "a class twice": {"classes.npy": _npy(np.array(["a", "a"]))},
    "subjects that are no number": {"subjects.npy": _npy(np.array([np.nan, 1]))},
    "starts in words": {"starts.npy": _npy(np.array(["a", "b"]))},
}


@pytest.mark.parametrize("change", ARRAYS.values(), ids=ARRAYS.keys())
def test_windows_in_damaged_arrays_are_refused(tmp_path: Path, change: dict[str, bytes]):
    good = {
        "samples.npy": _npy(SAMPLES),
        "labels.npy": _npy(np.array(["a", "b"])),
        "rate_hz.npy": _npy(np.array(50)),
    }
    path = tmp_path / "w.npz"
    path.write_bytes(_zipped(good))
    assert len(windows_file(path).rows) == 2
    path.write_bytes(_zipped({**good, **change}))
    with pytest.raises(DataError) as error:
        windows_file(path)
    told(error)


def test_a_header_of_many_columns_takes_no_time():
    columns = [f"c{n}" for n in range(60_000)]
    before = time.process_time()
    with pytest.raises(DataError, match="no column 'label'"):
        check_columns([*columns, *columns[:0]], ["label"], ["label"], what="column", path=Path("x"))
    assert time.process_time() - before < 2


@pytest.mark.parametrize("count", ["inf", "1e300", "2.5", "-1", "nan"])
def test_counts_of_samples_are_whole_and_finite(tmp_path: Path, count: str):
    (tmp_path / "a.csv").write_text(f"class,accuracy,n_samples\ncat,0.5,{count}\n")
    with pytest.raises(DataError) as error:
        read_foreign(tmp_path / "a.csv")
    told(error)


@pytest.mark.parametrize(
    "change",
    [
        {"cost": None},
        {"conditions": []},
        {"conditions": [{"id": "x"}]},
        {"classes": ["a", "a"]},
        {"classes": 7},
        {"parts": {"../x.parquet": "0"}},
        {"parts": []},
        {"fingerprint": "f"},
    ],
    ids=str,
)
def test_a_list_of_predictions_that_is_damaged_is_named(tmp_path: Path, change: dict[str, Any]):
    record = complete_record(
        {}, conditions=[Condition("x", {}, True)], classes=["a", "b"], sample_ids=[],
        fingerprint={}, cost={},
    )  # fmt: skip
    path = tmp_path / "complete.json"
    path.write_text(json.dumps({**record, **change}))
    with pytest.raises(RecordError) as error:
        read_run_predictions(tmp_path, run_id="r", entry="e", seed=0)
    assert str(path) in told(error)
    path.write_text("[]")
    with pytest.raises(RecordError):
        read_run_predictions(tmp_path, run_id="r", entry="e", seed=0)


def test_a_table_of_classes_that_is_damaged_is_named(tmp_path: Path):
    cells = [Condition("x", {}, True)]
    good = class_table(cells, ["p", "q"], np.array([4, 5]), np.array([[1, 2]]))
    wrong = class_table(cells, ["p", "q"], np.array([4, 5]), np.array([[1, 9]]))
    for content in (good[:-20], b"", good[:100] + b"\xff" * 8 + good[108:], wrong):
        name = "classes-1.parquet"
        (tmp_path / name).write_bytes(content)
        record = complete_record(
            {name: sha256(content).hexdigest()}, conditions=cells, classes=["p", "q"],
            sample_ids=[], fingerprint={}, cost={},
        )  # fmt: skip
        (tmp_path / "complete.json").write_text(json.dumps({**record, "unit": "class"}))
        with pytest.raises(RecordError) as error:
            read_class_counts(tmp_path, run_id="r", entry="e", seed=0)
        told(error)


@pytest.mark.parametrize(
    "change", [{"folds": "rx-"}, {"folds": "r"}, {"label": 7}, {"frames": -1}, {"sample_id": "s1"}]
)
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path: Path, change: dict[str, Any]):
    samples = [sample(n) for n in range(4)]
    folds = {"extra": {"folds": change["folds"]}} if "folds" in change else change
    samples[0] = type(samples[0])(**{**asdict(samples[0]), **folds})
    Manifest(samples, ["a", "b"]).save(tmp_path / "m.parquet")
    with pytest.raises(RecordError) as error:
        Manifest.load(tmp_path / "m.parquet")
    told(error)


def test_film_strips_without_a_frame_rate_are_damaged(tmp_path: Path):
    record = {
        "sample_id": "a", "label_name": "x", "group": "g", "frames": 9, "fps": None, "part": 0,
        "pictures": [], "strips": {},
    }  # fmt: skip
    index = {"format": 1, "settings": {}, "inputs": {}, "views": {}, "samples": [record]}
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(RecordError) as error:
        read_film(tmp_path)
    told(error)


def test_an_archive_with_a_damaged_name_loses_that_image_alone(tmp_path: Path):
    write_tree(tmp_path / "tree", {"": 3})
    path = zip_of(tmp_path / "tree", tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    # The name in front of the second file and its flag for UTF-8, not those in the list at the end.
    place = content.index(b"PK\x03\x04", 4)
    content[place + 7] |= 0x08
    content[place + 30] = 0xA6
    path.write_bytes(content)
    found = image_folder(path)
    assert len(found.rows) == 5
    assert [item.is_damage for item in found.dropped] == [True]


def test_readers_of_images_say_nothing_of_damage_in_side_data(tmp_path: Path):
    write_tree(tmp_path, {"": 1})
    path = tmp_path / "cat" / "000.png"
    content = path.read_bytes()
    animation = b"\0\0\0\x08acTL\0\0\0\0\0\0\0\0\xb9\x3d\xd9\x5e"
    path.write_bytes(content[:33] + animation + content[33:])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        image_folder(tmp_path)
    assert [str(each.message) for each in said] == []


def test_a_duration_that_is_no_number_is_none(tmp_path: Path):
    images = np.zeros((8, 16, 16, 3), np.uint8)
    path = write_video(tmp_path / "a.mkv", images, fps=10, codec="mpeg4")
    content = path.read_bytes()
    assert b"00:00:00.800000000" in content
    path.write_bytes(content.replace(b"00:00:00.800000000", b"00:00:         nan"))
    assert probe(path).missing_seconds is None


def test_a_pickle_that_takes_from_an_empty_stack_is_refused(tmp_path: Path):
    stream = io.BytesIO()
    torch.save({"samples": torch.ones(2, 1, 4), "labels": torch.tensor([0, 1])}, stream)
    path = tmp_path / "train.pt"
    for pickled in (b"\x80\x02s.", b"\x80\x02Q.", b"\x80\x0a}.", b"", b"\x80\x02\x8a\xff"):
        with zipfile.ZipFile(stream) as old, zipfile.ZipFile(path, "w") as new:
            for info in old.infolist():
                is_pickle = info.filename.endswith("data.pkl")
                new.writestr(info.filename, pickled if is_pickle else old.read(info))
        with pytest.raises(DataError) as error:
            import_file(path, tmp_path / "out")
        told(error)
    assert not (tmp_path / "out").exists()


def test_an_odd_escape_in_a_pickle_is_no_warning():
    assert read_pickle(b"\x80\x02U\x02\\u.") == b"\\u"


def test_stores_that_contradict_themselves_are_refused(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    signals = torch.ones(2, 3, 8)
    for ids, rate, triples in (
        (["a", "a"], 50.0, ()),
        (["a"], 50.0, ()),
        (["a", "b"], -1.0, ()),
        (["a", "b"], 50.0, ((0, 1, 9),)),
    ):
        WindowStore(ids, signals, ("x", "y", "z"), rate, triples).save(path)
        with pytest.raises(RecordError) as error:
            WindowStore.load(path)
        told(error)


@pytest.mark.parametrize("best", [{}, [], {"file": 7, "sha256": "x"}, {"file": "a"}], ids=str)
def test_a_checkpoint_that_names_no_best_weights_is_damaged(tmp_path: Path, best: Any):
    record = {"identity": {"content_hash": "abc"}, "progress": {"best": best}}
    weights = {"w": torch.ones(2)}
    # Writing looks at what the slots name, too.
    write_slot(tmp_path, SavedRun(weights, weights, record))
    with pytest.raises(RecordError) as error:
        pick_slot(tmp_path, identity={"content_hash": "abc"})
    told(error)


def test_weights_that_are_none_are_named_although_their_hash_fits(tmp_path: Path):
    record = {"identity": {}, "progress": {"best": None}}
    slot = write_slot(tmp_path, SavedRun({"w": torch.ones(2)}, {}, record))
    (slot / "weights.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(RecordError) as error:
        read_slot(slot)
    assert str(slot) in told(error)


@pytest.mark.parametrize("labels", [{"1": "a"}, "abc", {"0": "a", "2": "b"}])
def test_class_names_that_skip_a_number_are_named_with_their_file(labels: Any):
    with pytest.raises(WeightsError) as error:
        read_labels({"id2label": labels}, where=Path("config.json"))
    assert "config.json" in told(error)


@pytest.mark.parametrize("text", ['tai chi\n""\n', '["tai chi", " "]'])
def test_a_class_without_a_name_is_refused(tmp_path: Path, text: str):
    path = tmp_path / ("a.json" if text.startswith("[") else "a.txt")
    path.write_text(text)
    with pytest.raises(DataError) as error:
        name_labels([("l:1", "0")], path, 0)
    assert "without a name" in told(error)
