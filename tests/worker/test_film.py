"""Film-strips hold what judging gives the models, are whole or absent, and change no judging."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from regatta.config.expand import protocol_id
from regatta.config.load import study_from_mapping
from regatta.config.schema import ProtocolSection, Study
from regatta.core.errors import RecordError, StopRequested
from regatta.core.files import read_json, write_json
from regatta.core.signals import StopFlag
from regatta.data.manifest import Manifest, Sample
from regatta.data.video_files import write_video
from regatta.evaluation.grid import EntryInput
from regatta.evaluation.protocols import resolve_protocol
from regatta.models.spec import ModelSpec, resolve_model
from regatta.models.weights import save_model
from regatta.records.film import Film, FilmSample, read_film, write_film
from regatta.records.predictions import read_run_predictions
from regatta.records.run_folder import StudyFolder, open_study
from regatta.worker.film import (
    MOST_PICTURES,
    MOST_SPRITE_BYTES,
    choose_film_samples,
    make_sprite,
    record_film,
)
from regatta.worker.judge import judge
from regatta.worker.prepare import prepare
from regatta.worker.status_writer import StatusWriter
from tests.evaluation.tiny_judging import TEMPLATE, naive_clip

GRID = {"name": "temporal-grid", "options": {"coverage": [25, 100], "stride": [1, 8]}}
SMALL = EntryInput(4, 16, "crop")


def study_of(protocol: dict[str, Any], entries: tuple[str, ...] = ("a", "b")) -> Study:
    return study_from_mapping(
        {
            "name": "film",
            "data": {"source": "folder", "root": "videos"},
            "entries": [
                {"name": name, "model": "cnn3d", "size": "tiny", "checkpoint": "none"}
                for name in entries
            ],
            "protocol": {"part_samples": 2, **protocol},
        },
        where="tests",
    )


def make_clip(folder: Path, number: int, *, frames: int = 32, label: str = "") -> Sample:
    """Smooth colours, each frame another: left and right differ, so that a crop is seen."""
    time = np.arange(frames)[:, None, None] / frames
    across = np.linspace(0, 1, 40)[None, None, :]
    red, green = 40 + 180 * time, 30 + 200 * across
    shape = (frames, 24, 40)
    planes = [np.broadcast_to(plane, shape) for plane in (red, green, 255 - red)]
    images = np.stack(planes, axis=-1).astype(np.uint8)
    path = write_video(folder / f"clip{number:02d}.mp4", images, fps=16)
    return replace(
        TEMPLATE,
        sample_id=path.name,
        path=str(path),
        label=number % 3,
        label_name=label or f"class{number % 3}",
        group=f"g{number}",
        frames=frames,
        fps=16.0,
        width=40,
        height=24,
        content_hash=sha256(path.read_bytes()).hexdigest(),
    )


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("clips")
    return [make_clip(folder, number) for number in range(4)]


def record(
    home: Path,
    samples: list[Sample],
    entries: dict[str, EntryInput],
    protocol: dict[str, Any] = GRID,
    *,
    poll: Callable[[], None] = lambda: None,
) -> Film:
    study = study_of(protocol)
    design = resolve_protocol(study.protocol)
    folder = StudyFolder(home)
    record_film(folder, study, design, samples, entries, manifest_hash="m", poll=poll)
    film = read_film(film_folder(home, protocol))
    assert film is not None
    return film


def film_folder(home: Path, protocol: dict[str, Any] = GRID) -> Path:
    return StudyFolder(home).film(protocol_id(study_of(protocol).protocol))


def tile(sample: FilmSample, place: int) -> np.ndarray:
    """A thumbnail of the sprite, uint8 [S, S, 3]."""
    sprite = sample.sprite
    assert sprite is not None
    image = imread(io.BytesIO(sprite.content), format="jpg")
    row, column = divmod(place, sprite.columns)
    top, left = row * sprite.pitch, column * sprite.pitch
    return image[top : top + sprite.side, left : left + sprite.side]


DESIGNS = {
    "temporal-grid": GRID,
    "antialias": {"name": "antialias", "options": {"stride": [1, 4]}},
    "controls": {"name": "controls"},
    "multi-view": {"name": "multi-view", "options": {"views": ["1x1", "2x3"]}},
}


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_a_strip_shows_the_pictures_that_the_model_is_given(
    name: str, resize: Any, clips: list[Sample], tmp_path: Path
) -> None:
    film = record(tmp_path, clips[:1], {"a": EntryInput(4, 16, resize)}, DESIGNS[name])
    protocol = resolve_protocol(ProtocolSection.model_validate(DESIGNS[name]))
    spec = ModelSpec("tiny", 4, 16, (), (), resize, None, torch.nn.Identity, (), {})
    (kept,) = film.samples
    for condition in protocol.conditions:
        views = protocol.plan_views(32, 16.0, condition, 4, sample_id=kept.sample_id)
        clip = naive_clip(clips[0], views[0], spec).permute(0, 2, 3, 1).numpy()
        strip = kept.strips["a"][condition.id]
        assert len(strip) == len(clip) == 4
        assert [kept.pictures[place] for place in strip] == list(map(list, views[0].plan.shown))
        for place, picture in zip(strip, clip, strict=True):
            difference = tile(kept, place).astype(float) - picture
            assert np.abs(difference).mean() < 3  # What JPEG loses.
    several = {c.id for c in protocol.conditions if "x3" in c.id}
    assert set(film.views) == several
    assert all(count == 6 for count in film.views.values())


def test_padding_stands_in_a_strip_as_repeats(clips: list[Sample], tmp_path: Path) -> None:
    film = record(tmp_path, clips[:1], {"a": SMALL})
    kept = film.samples[0]
    # A quarter of 32 frames is 8: at stride 8 one frame is left, held over all four places.
    assert len(set(kept.strips["a"]["c25s8"])) == 1
    assert [kept.pictures[place] for place in kept.strips["a"]["c25s8"]] == [[0]] * 4
    assert len(set(kept.strips["a"]["c100s1"])) == 4


def test_entries_of_other_lengths_and_sizes_share_one_sprite(
    clips: list[Sample], tmp_path: Path
) -> None:
    entries = {"a": EntryInput(4, 16, "crop"), "b": EntryInput(8, 224, "crop")}
    (kept,) = record(tmp_path, clips[:1], entries).samples
    assert kept.sprite is not None
    assert kept.sprite.side == 72
    first = {name: tile(kept, kept.strips[name]["c100s1"][0]) for name in entries}
    # The same frame; the coarse one is made of squares of one colour, as its model saw it.
    assert np.abs(first["a"].astype(float) - first["b"]).mean() < 8
    coarse = tile(kept, kept.strips["a"]["c100s1"][0]).reshape(72, 72, 3)
    assert len(kept.strips["b"]["c100s1"]) == 8
    steps = np.abs(np.diff(coarse[36, :, 1].astype(float)))
    assert (steps > 4).sum() <= 16


def sample(name: str, label: str) -> Sample:
    return replace(TEMPLATE, sample_id=name, label_name=label)


def test_samples_are_drawn_by_seed_one_of_each_class_first() -> None:
    many = [sample(f"{label}-{n}", label) for label in "abcde" for n in range(6)]
    chosen = choose_film_samples(many, 4, seed=0)
    assert len({s.label_name for s in chosen}) == 4
    assert choose_film_samples(many[::-1], 4, seed=0) == chosen
    draws = {tuple(s.sample_id for s in choose_film_samples(many, 4, seed=k)) for k in range(20)}
    assert len(draws) > 15
    both = choose_film_samples(many, 10, seed=0)
    assert both[:4] == chosen
    assert sorted(s.label_name for s in both) == sorted("abcde" * 2)


def test_fewer_samples_than_asked_for_are_all_taken_once() -> None:
    few = [sample("x", "a"), sample("y", "a"), sample("z", "b")]
    assert sorted(s.sample_id for s in choose_film_samples(few, 16, seed=3)) == ["x", "y", "z"]


def test_film_changes_no_prediction_folder() -> None:
    ids = {protocol_id(ProtocolSection(film_samples=count)) for count in (0, 4, 16)}
    assert len(ids) == 1


def test_no_film_is_recorded_where_none_is_wanted(clips: list[Sample], tmp_path: Path) -> None:
    none = {**GRID, "film_samples": 0}
    study, design = study_of(none), resolve_protocol(study_of(none).protocol)
    record_film(
        StudyFolder(tmp_path),
        study,
        design,
        clips,
        {"a": SMALL},
        manifest_hash="m",
        poll=lambda: None,
    )
    assert list(tmp_path.rglob("*")) == []


def times(folder: Path) -> dict[str, int]:
    """Of strips and lists; a lock says only who is at work."""
    return {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if p.name != ".lock"}


def test_strips_that_are_there_are_not_recorded_again(clips: list[Sample], tmp_path: Path) -> None:
    both = {"a": SMALL, "b": EntryInput(8, 16, "crop")}
    first = record(tmp_path, clips, both)
    before = times(film_folder(tmp_path))
    assert record(tmp_path, clips, {"b": both["b"]}) == first
    assert times(film_folder(tmp_path)) == before


def test_an_entry_that_is_judged_later_joins_the_others(
    clips: list[Sample], tmp_path: Path
) -> None:
    later = EntryInput(8, 16, "crop")
    record(tmp_path, clips, {"a": SMALL})
    joined = record(tmp_path, clips, {"b": later})
    assert joined == record(tmp_path / "at-once", clips, {"a": SMALL, "b": later})
    sprites = {s.sprite.file_name for s in joined.samples if s.sprite}
    assert {p.name for p in film_folder(tmp_path).glob("*.jpg")} == sprites


def test_entries_judged_by_separate_workers_all_have_strips(
    clips: list[Sample], tmp_path: Path
) -> None:
    entries = {"a": SMALL, "b": EntryInput(8, 16, "crop")}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda item: record(tmp_path, clips, dict([item])), entries.items()))
    found = read_film(film_folder(tmp_path))
    assert found is not None
    assert set(found.inputs) == {"a", "b"}


def test_a_damaged_sprite_is_refused_and_recorded_anew(clips: list[Sample], tmp_path: Path) -> None:
    whole = record(tmp_path, clips, {"a": SMALL})
    sprite = next(film_folder(tmp_path).glob("*.jpg"))
    sprite.write_bytes(sprite.read_bytes()[:-9])
    with pytest.raises(RecordError, match="changed"):
        read_film(film_folder(tmp_path))
    assert record(tmp_path, clips, {"a": SMALL}) == whole


def stop_after(allowed: int) -> Callable[[], None]:
    """A poll that asks to leave after so many calls."""
    left = iter(range(allowed))

    def poll() -> None:
        if next(left, None) is None:
            raise StopRequested("stopped")

    return poll


def test_leaving_at_any_moment_leaves_the_strips_whole_or_absent(
    clips: list[Sample], tmp_path: Path
) -> None:
    wanted = record(tmp_path / "clean", clips, {"a": SMALL})
    calls: list[int] = []
    record(tmp_path / "count", clips, {"a": SMALL}, poll=lambda: calls.append(1))
    assert len(calls) >= 2 * len(clips)
    for allowed in range(len(calls)):
        with pytest.raises(StopRequested):
            record(tmp_path / "cut", clips, {"a": SMALL}, poll=stop_after(allowed))
        assert read_film(film_folder(tmp_path / "cut")) is None
    assert record(tmp_path / "cut", clips, {"a": SMALL}, poll=stop_after(len(calls))) == wanted


def test_leaving_while_an_entry_joins_keeps_the_strips_of_the_others(
    clips: list[Sample], tmp_path: Path
) -> None:
    before = record(tmp_path, clips, {"a": SMALL})
    with pytest.raises(StopRequested):
        record(tmp_path, clips, {"b": EntryInput(8, 16, "crop")}, poll=stop_after(5))
    assert read_film(film_folder(tmp_path)) == before


def test_a_sample_that_cannot_be_decoded_is_noted_and_the_others_are_kept(
    clips: list[Sample], tmp_path: Path
) -> None:
    broken = make_clip(tmp_path, 9)
    Path(broken.path).write_bytes(Path(broken.path).read_bytes()[:-200])
    film = record(tmp_path / "study", [broken, *clips[1:3]], {"a": SMALL})
    by_id = {s.sample_id: s for s in film.samples}
    assert by_id[broken.sample_id].sprite is None
    assert "changed" in (by_id[broken.sample_id].problem or "")
    assert all(by_id[s.sample_id].sprite for s in clips[1:3])


def test_every_sample_names_the_part_that_holds_its_predictions(
    clips: list[Sample], tmp_path: Path
) -> None:
    film = record(tmp_path, clips[::-1], {"a": SMALL})
    assert {s.sample_id: s.part for s in film.samples} == {
        "clip00.mp4": 0, "clip01.mp4": 0, "clip02.mp4": 1, "clip03.mp4": 1,
    }  # fmt: skip


def test_the_worst_pictures_stay_within_the_size_of_a_sprite() -> None:
    rng = np.random.default_rng(0)
    for count, side in ((MOST_PICTURES, 48), (160, 72)):
        noise = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        assert len(make_sprite(noise).content) < 1.05 * MOST_SPRITE_BYTES


def test_of_too_many_pictures_an_even_choice_is_kept(tmp_path: Path) -> None:
    frames = MOST_PICTURES + 50
    long = make_clip(tmp_path, 1, frames=frames)
    protocol = {"name": "temporal-grid", "options": {"coverage": [100], "stride": [1]}}
    (kept,) = record(tmp_path, [long], {"a": EntryInput(frames, 224, "crop")}, protocol).samples
    assert kept.sprite is not None
    assert (kept.sprite.count, kept.sprite.side) == (MOST_PICTURES, 48)
    strip = kept.strips["a"]["c100s1"]
    assert [kept.pictures[place] for place in strip] == [[index] for index in range(frames)]
    missing = [index for index, place in enumerate(strip) if place >= MOST_PICTURES]
    assert len(missing) == 50
    assert min(np.diff(missing)) >= 7


def test_thumbnails_of_odd_sides_do_not_bleed_into_each_other() -> None:
    """Black beside white: where an 8 x 8 block held parts of both, the edge would be grey."""
    flat = np.zeros((6, 21, 21, 3), np.uint8)
    flat[1::2] = 255
    sprite = make_sprite(flat)
    kept = FilmSample("", "", "", 1, 1.0, 0, [], {}, sprite)
    for place in range(6):
        assert np.abs(tile(kept, place).astype(int) - flat[place]).max() <= 2


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"samples": [{}]},
        {"inputs": {"a": {"frames": 4}}},
        {"views": 3},
    ],
)
def test_an_index_that_does_not_hold_together_is_refused(
    change: dict[str, Any], clips: list[Sample], tmp_path: Path
) -> None:
    record(tmp_path, clips[:1], {"a": SMALL})
    index = film_folder(tmp_path) / "index.json"
    content = {**read_json(index), **change}
    write_json(index, content)
    with pytest.raises(RecordError, match="film-strips"):
        read_film(film_folder(tmp_path))


def test_an_index_cannot_name_other_files_or_pictures(clips: list[Sample], tmp_path: Path) -> None:
    film = record(tmp_path, clips[:1], {"a": SMALL})
    folder = film_folder(tmp_path)
    text = (folder / "index.json").read_text()
    name = film.samples[0].sprite.file_name if film.samples[0].sprite else ""
    (folder / "index.json").write_text(text.replace(name, "../../secret.jpg"))
    with pytest.raises(RecordError, match="missing or was changed"):
        read_film(folder)
    kept = replace(film.samples[0], strips={"a": {"c100s1": [0, -1]}})
    write_film(folder, replace(film, samples=[kept]))
    with pytest.raises(RecordError, match="not there"):
        read_film(folder)


def test_judging_keeps_film_and_the_predictions_tell_the_same_distinct_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = study_from_mapping(
        {
            "name": "race",
            "data": {
                "source": "rotors",
                "root": str(tmp_path / "rotors"),
                "options": {
                    "train_clips": 8,
                    "validation_clips": 4,
                    "test_clips": 8,
                    "frames": 24,
                },
            },
            "entries": [{"name": "conv", "model": "cnn3d", "size": "tiny", "checkpoint": "none"}],
            "protocol": {**GRID, "film_samples": 2, "part_samples": 3},
        },
        where="tests",
    )
    folder = open_study(tmp_path, study)
    prepare(folder, stop=StopFlag(), status=StatusWriter([folder.prepare_status]))
    classes = Manifest.load(folder.manifest).classes
    ((spec, run),) = folder.runs()
    model = resolve_model(spec.entry, len(classes), seed=0)
    save_model(run.model, model.build(len(classes)), model, classes)
    write_json(run.training_results, {"test_acc": None})
    judge(
        folder,
        [run.run_id],
        shard=(0, 1),
        device=torch.device("cpu"),
        threads=1,
        stop=StopFlag(),
        status=StatusWriter([run.status]),
    )
    protocol = protocol_id(study.protocol)
    film = read_film(folder.film(protocol))
    assert film is not None
    assert len(film.samples) == 2
    judged = read_run_predictions(run.predictions(protocol), run_id=run.run_id, entry="", seed=0)
    ids = judged.sample_ids.tolist()
    for kept in film.samples:
        column = ids.index(kept.sample_id)
        for row, condition in enumerate(judged.conditions):
            strip = kept.strips["conv"][condition.id]
            assert len(set(strip)) == judged.truth["distinct_frames"][row, column]
            pad_share = 1 - len(set(strip)) / len(strip)
            assert pad_share == pytest.approx(judged.truth["pad_share"][row, column])
