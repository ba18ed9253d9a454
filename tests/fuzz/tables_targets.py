"""Lists of published sets, tables of signals and predictions: read with numpy, pandas and arrow."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from regatta.core.files import write_json
from regatta.data.image_listing import ImageListing, ImageRow, without_excluded
from regatta.data.manifest import SPLITS, Listing, Manifest, Sample, SampleRow
from regatta.data.scenes.files import _read_splits
from regatta.data.sources._class_numbers import name_labels
from regatta.data.sources.cifar10 import cifar10
from regatta.data.sources.cifar100 import cifar100
from regatta.data.sources.csv_recordings import csv_recordings
from regatta.data.sources.diving48 import read_diving48
from regatta.data.sources.hmdb51 import read_hmdb51
from regatta.data.sources.kinetics import read_kinetics
from regatta.data.sources.manifest_list import read_manifest_list
from regatta.data.sources.ssv2 import read_ssv2
from regatta.data.sources.ucf101 import read_ucf101
from regatta.data.sources.uci_har import uci_har
from regatta.data.sources.windows_file import windows_file
from regatta.data.window_listing import WindowListing
from regatta.records.class_counts import class_table, read_class_counts
from regatta.records.conditions import Condition
from regatta.records.film import read_answers, read_film
from regatta.records.imports import ForeignCounts, ForeignScores, read_foreign
from regatta.records.predictions import (
    complete_record,
    read_run_predictions,
    write_complete,
    write_part,
)
from regatta.records.profile_table import read_profile
from regatta.records.run_folder import StudyFolder
from regatta.records.scenes import (
    read_attention,
    read_baselines,
    read_cameras,
    read_explanations,
    read_tracks,
    read_truth,
)
from tests.data.image_files import write_cifar10, write_cifar100
from tests.data.signal_files import write_uci
from tests.fuzz.target import Case, Target, on_disk
from tests.fuzz.text_targets import JSON_WORDS

LIST_WORDS = (
    *(
        b"../../etc/passwd",
        b"/etc/passwd",
        b"\x00",
        b",,",
        b'"',
        b"'",
        b" 1",
        b" 0",
        b"::",
        b"train",
    ),
    *(b"validation", b"\t", b"\r", b"label", b"group", b"split", b"video_path", b"start_frame"),
    *(b"_g01_c01.avi", b".mp4", b"Archery/", b"-1", b"\xd9\xa3", b"\xc2\xb2", b"./", b"//", b"~/x"),
)
CSV_WORDS = (*LIST_WORDS, b"score_0", b"nan", b"inf", b"-inf", b"1e999", b"time", b"subject", b"NA")
MARK_WORDS = (
    b"\x93NUMPY",
    b"'descr'",
    b"'<f4'",
    b"'|O'",
    b"'fortran_order'",
    b"'shape'",
    b"PK\x05\x06",
)


def check_rows(found: list[SampleRow] | Listing, root: Path) -> None:
    """What the scan relies on of a list that was read."""
    rows = found.rows if isinstance(found, Listing) else found
    top = os.path.normpath(root) + os.sep
    for row in rows:
        path = os.path.normpath(root / row.path)
        assert path.startswith(top), f"{path} leaves {top}"
        assert "\x00" not in path
        for text in (path, row.label_name, row.group):
            assert text, "an empty name"
            text.encode("utf-8")
        assert row.split in (*SPLITS, "")
        assert 0 <= row.start_frame < 2**63
        assert row.frames is None or 0 < row.frames < 2**63
        assert all(isinstance(v, str) or math.isfinite(v) for v in row.extra.values())
        json.dumps(row.extra).encode("utf-8")


def _listed(read: Callable[..., Any], **options: Any) -> Callable[[Path], Callable[[], None]]:
    def parser(root: Path) -> Callable[[], None]:
        return lambda: check_rows(read(root, split=1, seed=0, **options), root)

    return parser


def _ucf101(folder: Path) -> Case:
    lists = folder / "ucfTrainTestlist"
    lists.mkdir()
    lists.joinpath("classInd.txt").write_text("1 ApplyEyeMakeup\n2 Archery\n3 Biking\n")
    for part, number in (("train", " 2"), ("test", "")):
        rows = [
            f"Archery/v_Archery_g{group:02d}_c{clip:02d}.avi{number}"
            for group in range(1 if part == "train" else 8, 8 if part == "train" else 10)
            for clip in (1, 2)
        ]
        lists.joinpath(f"{part}list01.txt").write_text("\r\n".join(rows) + "\r\n")
    return on_disk(folder, _listed(read_ucf101)(folder))


def _hmdb51(folder: Path) -> Case:
    films = [("Crash", 1), ("Juno", 1), ("BIG_FISH", 2), ("Glory", 0)]
    (folder / "splits").mkdir()
    for label in ("run", "walk"):
        rows = [
            f"{film}_{label}_f_cm_np1_ba_med_{n}.avi {flag} "
            for film, flag in films
            for n in (0, 1)
        ]
        (folder / "splits" / f"{label}_test_split1.txt").write_text("\n".join(rows))
    return on_disk(folder, _listed(read_hmdb51)(folder))


def _ssv2(folder: Path) -> Case:
    (folder / "labels").mkdir()
    write_json(
        folder / "labels" / "labels.json", {"Putting something": "0", "Moving something": "1"}
    )
    for part in ("train", "validation"):
        entries = [
            {"id": str(n), "template": "Putting [something]", "label": "x"} for n in range(4)
        ]
        write_json(folder / "labels" / f"{part}.json", entries)
    return on_disk(folder, _listed(read_ssv2)(folder))


def _kinetics(folder: Path) -> Case:
    for part in ("train", "validate"):
        rows = ["label,youtube_id,time_start,time_end,split,is_cc"]
        rows += [f'"tai chi",-_{part[0]}{n:08d},{n},{n + 10},{part},0' for n in range(4)]
        (folder / f"{part}.csv").write_text("\r\n".join(rows) + "\r\n")
    return on_disk(folder, _listed(read_kinetics)(folder))


def _kinetics_numbers(folder: Path) -> Case:
    (folder / "train.txt").write_text("a/x1.mp4 0\na/x2.mp4 1\nb/x3.avi 2\n")
    (folder / "val.txt").write_text("a/y1.mp4,0\nb/y2.mp4::2\n")
    (folder / "names.txt").write_text("0 tai chi\n1 air drumming\n2 yoga\n")
    return on_disk(folder, _listed(read_kinetics, class_list="names.txt")(folder))


def _class_list(folder: Path) -> Case:
    (folder / "a.csv").write_text("id,name\n0,tai chi\n1,air drumming\n2,yoga\n")
    (folder / "b.json").write_text('["tai chi", "air drumming", "yoga"]')
    (folder / "c.json").write_text('{"tai chi": 0, "air drumming": 1, "yoga": 2}')
    (folder / "d.txt").write_text("tai chi\nair drumming\nyoga\n")

    def parse(name: str, _content: bytes) -> None:
        names, _ = name_labels([("l:1", "0"), ("l:2", "2")], folder / name, 0)
        assert set(names) == {"0", "2"}
        assert all(isinstance(n, str) and n.encode("utf-8") for n in names.values())

    return Case(on_disk(folder, lambda: None).files, parse, folder)


def _diving48(folder: Path) -> Case:
    dives = [["Back", "15som", "05Twis", "FREE"], ["Forward", "35som", "NoTwis", "PIKE"]]
    write_json(folder / "Diving48_vocab.json", dives)
    for part in ("train", "test"):
        entries = [
            {"vid_name": f"_{part}2w_{n:05d}", "label": n % 2, "start_frame": 0, "end_frame": 9}
            for n in range(4)
        ]
        write_json(folder / f"Diving48_V2_{part}.json", entries)
    return on_disk(folder, _listed(read_diving48)(folder))


def _manifest_csv(folder: Path) -> Case:
    rows = ["video_path,label,group,split,start_frame,end_frame,height"]
    rows += [
        f"a/x{n}.mp4,{'ab'[n % 2]},g{n},{('train', 'test')[n // 4]},{n},{n + 9},1.5"
        for n in range(8)
    ]
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return on_disk(folder, _listed(read_manifest_list)(folder))


def check_images(found: ImageListing) -> None:
    assert found.images.dtype == np.uint8
    assert len(found.images) == len(found.rows)
    assert len({row.sample_id for row in found.rows}) == len(found.rows)
    assert {row.label_name for row in found.rows} <= set(found.classes)
    assert all(row.label_name.encode("utf-8") for row in found.rows)


def _cifar10(folder: Path) -> Case:
    write_cifar10(folder, 1)
    return on_disk(folder, lambda: check_images(cifar10(folder)))


def _cifar100(folder: Path) -> Case:
    write_cifar100(folder, {"train": 3, "test": 2})
    return on_disk(folder, lambda: check_images(cifar100(folder)))


def _excluded(folder: Path) -> Case:
    rows = [ImageRow(f"test/{n:05d}", "a", folder / "x", n, "test") for n in range(4)]
    listing = ImageListing(np.zeros((4, 3, 8, 8), np.uint8), rows, ["a"])
    (folder / "ids.txt").write_text("# copies\ntest/00001\ntest/00003\n")
    return on_disk(folder, lambda: check_images(without_excluded(listing, str(folder / "ids.txt"))))


def check_windows(found: WindowListing) -> None:
    assert found.signals.dtype == np.float32
    assert found.signals.ndim == 3
    assert len(found.signals) == len(found.rows)
    assert len({row.sample_id for row in found.rows}) == len(found.rows)
    assert {row.label_name for row in found.rows} <= set(found.classes)
    assert len(found.channels) == found.signals.shape[1]
    assert math.isfinite(found.rate_hz)
    assert found.rate_hz > 0
    for row in found.rows:
        assert row.split in (*SPLITS, "")
        for text in (row.sample_id, row.label_name, row.subject, row.session):
            text.encode("utf-8")
    if found.features is not None:
        assert len(found.features) == len(found.rows)
    json.dumps([found.channels, found.rate_hz, found.classes], allow_nan=False).encode("utf-8")


def _uci_har(folder: Path) -> Case:
    labels = {"train": [1, 2, 3, 1], "test": [2, 3]}
    subjects = {"train": [1, 1, 2, 2], "test": [3, 3]}
    channels = ("acc_x", "acc_y")
    write_uci(folder, labels=labels, subjects=subjects, channels=channels, length=8, features=3)
    return on_disk(folder, lambda: check_windows(uci_har(folder, channels=channels)))


def _recordings(folder: Path) -> Case:
    for name, offset in (("a.csv", 0), ("b.csv", 1)):
        rows = ["time,acc_x,acc_y,label,subject"]
        rows += [
            f"{t / 50:.2f},{t * 0.1 + offset:.3f},-{t},{'walk' if t < 9 else 'sit'},p{offset}"
            for t in range(18)
        ]
        (folder / name).write_text("\n".join(rows) + "\n")
    return on_disk(folder, lambda: check_windows(csv_recordings(folder, window=4, step=2)))


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _archive(members: dict[str, np.ndarray], path: Path, read: Callable[[], None]) -> Case:
    """An npz file, damaged as a whole or in one array with the sums of the archive right."""
    good = {f"{name}.npy": _npy(array) for name, array in members.items()}

    def parse(name: str, content: bytes) -> None:
        path.write_bytes(content if name == "whole.npz" else _zipped({**good, name: content}))
        read()

    return Case({"whole.npz": _zipped(good), **good}, parse)


def _windows_npz(folder: Path) -> Case:
    arrays = {
        "samples": np.arange(48, dtype=np.float32).reshape(4, 2, 6),
        "labels": np.array([0, 1, 0, 1]),
        "subjects": np.array([1, 1, 2, 2]), "splits": np.array([0, 0, 1, 2]),
        "classes": np.array(["walk", "sit"]), "channels": np.array(["x", "y"]),
        "rate_hz": np.array(50.0), "recordings": np.array([0, 0, 1, 1]),
        "starts": np.array([0, 3, 0, 3]),
    }  # fmt: skip
    path = folder / "windows.npz"
    return _archive(arrays, path, lambda: check_windows(windows_file(path)))


def with_header(content: bytes, tail: bytes) -> bytes:
    """A safetensors file of this header text, with its length right."""
    return len(content).to_bytes(8, "little") + content + tail


def safetensors_case(good: bytes, path: Path, read: Callable[[], None]) -> Case:
    """A safetensors file, damaged as a whole or in the text of its header."""
    size = int.from_bytes(good[:8], "little")
    header, tail = good[8 : 8 + size], good[8 + size :]

    def parse(name: str, content: bytes) -> None:
        path.write_bytes(content if name == "whole" else with_header(content, tail))
        read()

    return Case({"whole": good, "header": header}, parse)


def _windows_safetensors(folder: Path) -> Case:
    from safetensors.numpy import save

    facts = {"classes": ["walk", "sit"], "channels": ["x", "y"], "rate_hz": 50}
    arrays = {"samples": np.ones((4, 2, 6), np.float32), "labels": np.array([0, 1, 0, 1])}
    good = save(arrays, metadata={"regatta": json.dumps(facts)})
    path = folder / "windows.safetensors"
    return safetensors_case(good, path, lambda: check_windows(windows_file(path)))


def check_foreign(found: Any) -> None:
    """What comparing relies on of predictions that were made elsewhere."""
    cells, classes = len(found.conditions), len(found.classes)
    assert len({c.id for c in found.conditions}) == cells
    assert sum(c.is_reference for c in found.conditions) == 1
    assert len(set(found.classes)) == classes
    json.dumps([c.axes for c in found.conditions], allow_nan=False)
    for text in (*found.classes, *(c.id for c in found.conditions), *found.notes):
        assert isinstance(text, str)
        text.encode("utf-8")
    if isinstance(found, ForeignCounts):
        assert found.right.shape == (cells, classes)
        assert (found.right >= 0).all()
        assert (found.right <= found.counts).all()
        return
    assert isinstance(found, ForeignScores)
    samples = len(found.sample_ids)
    assert len(set(found.sample_ids.tolist())) == samples > 0
    assert found.scores.shape == (cells, samples, classes)
    assert np.isfinite(found.scores).all()
    assert found.labels.shape == (samples,)
    assert (found.labels >= 0).all()
    assert (found.labels < classes).all()
    "".join(found.sample_ids.tolist()).encode("utf-8")


def _foreign_scores(folder: Path) -> Case:
    rows = ["sample_id,label,group,coverage,stride,score_0,score_1,score_2"]
    rows += [
        f"s{n},{n % 3},g{n // 2},{c},{s},{0.1 * n:.2f},-{n},{c * 0.01}"
        for n in range(5) for c in (50, 100) for s in (1, 2)
    ]  # fmt: skip
    (folder / "a.csv").write_text("\n".join(rows) + "\n")
    rows = ["sample_id,label,condition,score_cat,score_dog", "a,cat,x,0.25,0.75", "b,dog,x,0.5,0.5"]
    (folder / "b.csv").write_text("\r\n".join(rows) + "\r\n")
    files = on_disk(folder, lambda: None).files
    return Case(files, lambda name, _: check_foreign(read_foreign(folder / name)), folder)


def _foreign_classes(folder: Path) -> Case:
    rows = ["class,accuracy,n_samples,coverage,stride"]
    rows += [f"{k},{a},{8},{c},1" for k, a in (("cat", 0.5), ("dog", 0.25)) for c in (50, 100)]
    (folder / "a.csv").write_text("\n".join(rows) + "\n")
    return on_disk(folder, lambda: check_foreign(read_foreign(folder / "a.csv")))


def _foreign_npz(folder: Path) -> Case:
    rng = np.random.default_rng(0)
    arrays = {
        "scores": rng.normal(size=(2, 4, 3)).astype(np.float32), "labels": np.array([0, 1, 2, 0]),
        "sample_ids": np.array(["a", "b", "c", "d"]), "groups": np.array(["g", "g", "h", "h"]),
        "classes": np.array(["x", "y", "z"]), "coverage": np.array([50, 100]),
        "stride": np.array([1, 1]),
    }  # fmt: skip
    path = folder / "foreign.npz"
    return _archive(arrays, path, lambda: check_foreign(read_foreign(path)))


def _write_predictions(folder: Path) -> list[str]:
    rng = np.random.default_rng(0)
    ids, cells = ["a", "b", "c", "d"], [Condition("x", {"coverage": 50}), Condition("y", {}, True)]
    for number, part in enumerate((ids[:2], ids[2:])):
        rows = [(i, c.id) for c in cells for i in part]
        columns: dict[str, Any] = {
            "sample_id": [i for i, _ in rows], "group": ["g"] * 4,
            "condition": [c for _, c in rows],
            "label": np.array([ids.index(i) % 3 for i, _ in rows], np.int32),
            "distinct_frames": [4] * 4, "span_seconds": [0.5] * 4, "rate_hz": [None] * 4,
            "pad_share": [0.0] * 4, "clip_key": ["k"] * 4,
        }  # fmt: skip
        write_part(folder, number, columns, rng.normal(size=(4, 3)).astype(np.float32))
    write_complete(
        folder, conditions=cells, classes=["p", "q", "r"], sample_ids=ids,
        fingerprint={"manifest": "m", "protocol": "p"}, cost={},
    )  # fmt: skip
    return ids


def _predictions(folder: Path) -> Case:
    """Parts and complete.json of a run; the hash of a damaged part is that of the damage."""
    ids = _write_predictions(folder)
    case = on_disk(folder, lambda: None)
    complete = json.loads(case.files["complete.json"])

    def parse(name: str, content: bytes) -> None:
        if name != "complete.json":
            parts = {**complete["parts"], name: sha256(content).hexdigest()}
            (folder / "complete.json").write_text(json.dumps({**complete, "parts": parts}))
        else:
            (folder / "complete.json").write_bytes(content)
        found = read_run_predictions(folder, run_id="r", entry="e", seed=0)
        cells, samples, classes = found.scores.shape
        assert (cells, classes) == (len(found.conditions), len(found.classes))
        assert found.labels.shape == (samples,) == (len(set(found.sample_ids.tolist())),)
        assert (found.labels < classes).all()
        assert all(values.shape == (cells, samples) for values in found.truth.values())
        assert isinstance(found.fingerprint, dict)
        read_answers(folder, dict.fromkeys(ids, 0))

    return Case(case.files, parse, folder)


def _class_counts(folder: Path) -> Case:
    cells = [Condition("x", {"coverage": 50}), Condition("y", {}, True)]
    table = class_table(cells, ["p", "q"], np.array([4, 5]), np.array([[1, 2], [4, 0]]))
    name = "classes-1.parquet"
    (folder / name).write_bytes(table)
    record = complete_record(
        {name: sha256(table).hexdigest()}, conditions=cells, classes=["p", "q"], sample_ids=[],
        fingerprint={"imported": True}, cost={},
    )  # fmt: skip
    record |= {"unit": "class"}
    write_json(folder / "complete.json", record)

    def parse(changed: str, content: bytes) -> None:
        if changed == name:
            parts = {name: sha256(content).hexdigest()}
            (folder / "complete.json").write_text(json.dumps({**record, "parts": parts}))
        found = read_class_counts(folder, run_id="r", entry="e", seed=0)
        assert found.right.shape == (len(found.conditions), len(found.classes))
        assert (found.right >= 0).all()
        assert (found.right <= found.counts).all()

    return Case(on_disk(folder, lambda: None).files, parse, folder)


def sample(number: int) -> Sample:
    return Sample(
        f"s{number}", f"/x/s{number}", number % 2, "ab"[number % 2], f"g{number}",
        ("train", "test")[number // 3], 0, 9, 25.0, 32, 24, 0.36, "0" * 64, {"folds": "rvt"},
    )  # fmt: skip


def _manifest(folder: Path) -> Case:
    """manifest.parquet: its bytes, and the header and rows that stand in them."""
    path = folder / "manifest.parquet"
    Manifest([sample(n) for n in range(6)], ["a", "b"], [], ["note"]).save(path)
    good, table = path.read_bytes(), pq.read_table(path)
    header = (table.schema.metadata or {})[b"regatta"]

    def parse(name: str, content: bytes) -> None:
        if name == "header":
            changed = table.replace_schema_metadata({b"regatta": content})
            stream = pa.BufferOutputStream()
            pq.write_table(changed, stream)
            content = stream.getvalue().to_pybytes()
        elif name == "extra":
            text = content.decode("utf-8", "replace")
            extra = pa.array([text, *table["extra"].to_pylist()[1:]])
            stream = pa.BufferOutputStream()
            place = table.schema.get_field_index("extra")
            pq.write_table(table.set_column(place, "extra", extra), stream)
            content = stream.getvalue().to_pybytes()
        path.write_bytes(content)
        check_manifest(Manifest.load(path))

    return Case({"whole": good, "header": header, "extra": b'{"folds": "rvt", "x": 1.5}'}, parse)


def check_manifest(found: Manifest) -> None:
    assert len({s.sample_id for s in found.samples}) == len(found.samples)
    assert len(set(found.classes)) == len(found.classes)
    for s in found.samples:
        assert found.classes[s.label] == s.label_name if s.label >= 0 else s.split == "unknown"
        assert s.start_frame >= 0
        assert s.frames >= 0
        assert math.isfinite(s.fps)
        assert s.split in (*SPLITS, "unknown", "")
    found.hash()
    for fold in range(found.folds):
        found.of_fold(fold)


def _splits(folder: Path) -> Case:
    rows = [
        "sample_id,split,label",
        *(f"scene-{n:05d},{('train', 'test')[n % 2]},0" for n in range(6)),
    ]
    (folder / "splits.csv").write_text("\n".join(rows) + "\n")

    def parse() -> None:
        assert set(_read_splits(folder / "splits.csv").values()) <= set(SPLITS)

    return on_disk(folder, parse)


def _scene_records(folder: Path) -> Case:
    from safetensors.numpy import save_file

    ids = np.array(["a", "b", "c"])
    axes = {
        f"{p}{a}": np.arange(3.0)
        for p in ("last_", "velocity_", "target_", "cv_", "")
        for a in "xyz"
    }
    truth = {"sample_id": ids, **axes, "visible_views": np.array([1, 2, 3])}
    pq.write_table(pa.table(truth), folder / "truth.parquet")
    base = {"sample_id": ids, "baseline": ["cv"] * 3, "track": ["oracle"] * 3, "label": [0, 1, 0]}
    pq.write_table(
        pa.table({**base, **{a: np.arange(3.0) for a in "xyz"}}), folder / "baselines.parquet"
    )
    write_json(
        folder / "cameras.json",
        {
            "positions": [[0, 0, 1]],
            "rotations": [np.eye(3).tolist()],
            "focal": 9.0,
            "centre": [4, 4],
        },
    )
    write_json(folder / "scenes.json", {"ids": ids.tolist()})
    save_file({"positions": np.zeros((3, 6, 3), np.float32)}, folder / "tracks.safetensors")
    line = {"sample": "a", "text": "it turns", "source": "template", "accepted": True, "fields": {}}
    (folder / "explanations.jsonl").write_text(f"{json.dumps(line)}\n" * 2)
    frames, maps = np.zeros((1, 2, 3, 4, 4), np.uint8), np.zeros((1, 2, 4, 4), np.float32)
    save_file({"frames": frames, "maps": maps}, folder / "attention.safetensors")
    facts = {"samples": ["a"], "labels": [0], "predicted": [1], "method": "m", "faithfulness": {}}
    write_json(folder / "attention.json", facts)

    def parse(name: str, _content: bytes) -> None:
        match name.partition(".")[0]:
            case "truth":
                found = read_truth(folder)
                assert found is not None
                found.at(ids)
            case "baselines":
                read_baselines(folder, ids)
            case "cameras":
                cameras = read_cameras(folder)
                assert cameras is not None
                assert len(cameras.positions) == len(cameras.rotations)
            case "tracks" | "scenes":
                for track in read_tracks(folder, ["a", "b"]).values():
                    assert track.ndim == 2
                    assert track.shape[1] == 3
            case "explanations":
                read_explanations(folder)
            case _:
                read_attention(folder)

    return Case(on_disk(folder, lambda: None).files, parse, folder)


def _film(folder: Path) -> Case:
    content = b"\xff\xd8 no picture"
    digest = sha256(content).hexdigest()
    (folder / f"{digest[:16]}.jpg").write_bytes(content)
    sprite = {
        "file": f"{digest[:16]}.jpg",
        "sha256": digest,
        "side": 8,
        "pitch": 9,
        "columns": 2,
        "count": 2,
    }
    record = {
        "sample_id": "a", "label_name": "x", "group": "g", "frames": 9, "fps": 25.0, "part": 0,
        "pictures": [[0], [1]], "strips": {"e": {"c": [0, 1, 1]}}, "problem": None,
        "sprite": sprite,
    }  # fmt: skip
    inputs = {"e": {"frames": 3, "image_size": 16, "resize": "crop"}}
    index = {"format": 1, "settings": {}, "inputs": inputs, "views": {"c": 2}, "samples": [record]}
    write_json(folder / "index.json", index)

    def parse() -> None:
        found = read_film(folder)
        assert found is not None
        for item in found.samples:
            places = [
                p for cells in item.strips.values() for strip in cells.values() for p in strip
            ]
            assert all(0 <= place < len(item.pictures) for place in places)
            assert math.isfinite(item.fps)

    return on_disk(folder, parse, "index.json")


def _profile(folder: Path) -> Case:
    (folder / "results").mkdir()
    rows = [{"entry": "e", "stage": "step", "batch": 8, "precision": "fp32", "median_ms": 1.5}]
    write_json(folder / "results" / "profile.json", {"study": "s", "device": "cpu", "rows": rows})

    def parse() -> None:
        found = read_profile(StudyFolder(folder))
        assert found is not None
        assert all(isinstance(row, dict) for row in found["rows"])

    return on_disk(folder, parse)


TARGETS = [
    Target("ucf101", _ucf101, LIST_WORDS, quick=300, soak=30_000),
    Target("hmdb51", _hmdb51, LIST_WORDS, quick=300, soak=30_000),
    Target("ssv2", _ssv2, (*JSON_WORDS, *LIST_WORDS), quick=300, soak=30_000),
    Target("kinetics", _kinetics, LIST_WORDS, quick=300, soak=30_000),
    Target("kinetics-numbers", _kinetics_numbers, LIST_WORDS, quick=300, soak=30_000),
    Target("class-list", _class_list, (*JSON_WORDS, *LIST_WORDS), quick=300, soak=30_000),
    Target("diving48", _diving48, (*JSON_WORDS, *LIST_WORDS), quick=300, soak=30_000),
    Target("manifest-csv", _manifest_csv, CSV_WORDS, quick=300, soak=30_000),
    Target("cifar10", _cifar10, LIST_WORDS, quick=100, soak=10_000),
    Target("cifar100", _cifar100, LIST_WORDS, quick=100, soak=10_000),
    Target("excluded-ids", _excluded, LIST_WORDS, quick=200, soak=20_000),
    Target("uci-har", _uci_har, CSV_WORDS, quick=150, soak=15_000),
    Target("recordings", _recordings, CSV_WORDS, quick=60, soak=8_000),
    Target("windows-npz", _windows_npz, MARK_WORDS, quick=200, soak=20_000),
    Target("windows-safetensors", _windows_safetensors, JSON_WORDS, quick=200, soak=20_000),
    Target("foreign-scores", _foreign_scores, CSV_WORDS, quick=200, soak=20_000),
    Target("foreign-classes", _foreign_classes, CSV_WORDS, quick=200, soak=20_000),
    Target("foreign-npz", _foreign_npz, MARK_WORDS, quick=200, soak=20_000),
    Target("predictions", _predictions, JSON_WORDS, quick=100, soak=10_000),
    Target("class-counts", _class_counts, JSON_WORDS, quick=100, soak=10_000),
    Target("manifest", _manifest, JSON_WORDS, quick=100, soak=10_000),
    Target("splits", _splits, LIST_WORDS, quick=300, soak=30_000),
    Target("scene-records", _scene_records, JSON_WORDS, quick=150, soak=15_000),
    Target("film", _film, JSON_WORDS, quick=300, soak=20_000),
    Target("profile", _profile, JSON_WORDS, quick=200, soak=20_000),
]
