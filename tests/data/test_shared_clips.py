"""Promises of shared clips: what each run gets is what it would make, whoever lives or dies."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from regatta.core.errors import DecodeError
from regatta.data import shared_clips
from regatta.data.clip_recipe import ClipRecipe
from regatta.data.manifest import Sample
from regatta.data.shared_clips import Sharing, member_facts
from regatta.data.temporal_augment import TemporalAugment
from regatta.records import clip_pool
from regatta.records.clip_pool import (
    Key,
    Membership,
    choose_root,
    join_pool,
    pool_roots,
    sweep_pool,
)
from tests.data.small_clips import assert_same, by_id, loader, make_sample

START = Key(0, 0, 0)
MIXED = TemporalAugment(0.5, (25, 100), (1, 3), box_probability=0.5)
RECIPES: dict[str, dict[str, Any]] = {
    "ann": {"frames": 4, "image_size": 16},
    "bob": {"frames": 8, "image_size": 12, "flip": False, "temporal": MIXED},
    "cyd": {"frames": 2, "image_size": 20, "augment": "none", "resize": "squash"},
    "dan": {"frames": 4, "image_size": 16},
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("clips")
    return [make_sample(folder, number) for number in range(11)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "pool"


def recipe_of(name: str) -> ClipRecipe:
    return ClipRecipe(**{"resize": "crop", **RECIPES[name]})


def alone(samples: list[Sample], name: str, **changes: Any) -> Any:
    return loader(samples, **{**RECIPES[name], **changes})


def shared(samples: list[Sample], name: str, sharing: Sharing, **changes: Any) -> Any:
    return loader(samples, **{**RECIPES[name], "sharing": sharing, **changes})


@contextmanager
def joined(
    root: Path, *names: str, limit_bytes: int = 10**8, epochs: int = 9, start: Key = START
) -> Iterator[list[Sharing]]:
    """Members of one group, at the beginning of their first epoch."""
    with ExitStack() as stack:
        sharings = []
        for name in names:
            recipes = {"train": recipe_of(name)}
            recipes["validation"] = replace(recipes["train"], augment="none", temporal=None)
            member = stack.enter_context(
                join_pool(
                    root,
                    "group",
                    name,
                    member_facts(recipes, epochs=epochs),  # pyright: ignore[reportArgumentType]
                    limit_bytes=limit_bytes,
                    processes=len(names),
                )
            )
            assert member is not None
            member.tell(start)
            sharings.append(Sharing(member))
        yield sharings


def pool_bytes(root: Path) -> int:
    """Memory that waiting clips take, each once however many names it has."""
    found = [path.stat() for path in root.glob("*/*/*.*.*") if path.parent.name != "claims"]
    return sum({facts.st_ino: facts.st_size for facts in found}.values())


def test_the_first_to_come_makes_the_clips_of_all_others(samples, root):
    with joined(root, "ann", "bob", "cyd", "dan") as sharings:
        for name, sharing in zip(("ann", "bob", "cyd", "dan"), sharings, strict=True):
            got = list(shared(samples, name, sharing).batches(0))
            assert_same(got, list(alone(samples, name).batches(0)))
    assert [s.counts for s in sharings] == [
        Counter(made=11),
        *[Counter(received=11) for _ in range(3)],
    ]
    assert not root.exists()


def test_runs_side_by_side_get_what_they_would_make_over_several_epochs(samples, root):
    names = ("ann", "bob", "cyd")

    def train(name: str, sharing: Sharing) -> list[Any]:
        train_loader = shared(samples, name, sharing, threads=2)
        return [batch for epoch in range(3) for batch in train_loader.batches(epoch)]

    with joined(root, *names) as sharings, ThreadPoolExecutor(3) as pool:
        got = list(pool.map(train, names, sharings))
    for name, batches in zip(names, got, strict=True):
        assert_same(batches, [b for e in range(3) for b in alone(samples, name).batches(e)])
    assert all(sharing.counts.total() == 33 for sharing in sharings)


def test_equal_clips_take_their_memory_once(samples, root):
    with joined(root, "ann", "dan", "bob") as (_, _, bob):
        list(shared(samples, "bob", bob).batches(0))
        assert pool_bytes(root) == 11 * recipe_of("ann").clip_bytes


@pytest.mark.parametrize("clips", [0, 1, 3, 7])
def test_waiting_clips_never_take_more_than_the_limit(samples, root, clips):
    size = recipe_of("ann").clip_bytes
    with joined(root, "ann", "dan", limit_bytes=clips * 2 * size) as (ann, dan):
        for batch in shared(samples, "ann", ann).batches(0):
            assert pool_bytes(root) <= clips * 2 * size
            assert len(batch.sample_ids)
        assert_same(
            list(shared(samples, "dan", dan).batches(0)), list(alone(samples, "dan").batches(0))
        )
    # Ann waited for nobody: she made all, and Dan what found no room.
    assert ann.counts == Counter(made=11)
    assert dan.counts["received"] == max(0, clips - 2)


def test_a_run_that_resumes_elsewhere_gets_its_clips(samples, root):
    with joined(root, "ann", "bob") as (ann, bob):
        list(shared(samples, "ann", ann).batches(0))
        later = list(shared(samples, "bob", bob).batches(2, start=1))
        assert_same(later, list(alone(samples, "bob").batches(2))[1:])
        # What came for the turns that it never took is gone, and it is made nothing any more.
        list(shared(samples, "ann", ann).batches(1))
        assert not list(root.glob("group/bob.*/0.*")) + list(root.glob("group/bob.*/1.*"))


def test_ranks_and_single_processes_share(samples, root):
    facts = member_facts({"train": recipe_of("ann"), "validation": recipe_of("ann")}, epochs=1)
    with ExitStack() as stack:
        places = [("one", 0, 1), *[("two", rank, 2) for rank in range(2)]]
        members = []
        for name, rank, world in places:
            options: dict[str, Any] = {"rank": rank, "world": world}
            joining = join_pool(
                root, "group", name, facts, limit_bytes=10**8, processes=3, **options
            )
            member = stack.enter_context(joining)
            assert member
            member.tell(START)
            members.append((Sharing(member), options))
        wanted = by_id(list(alone(samples, "ann").batches(0)))
        for sharing, options in members:
            batches = list(shared(samples, "ann", sharing, batch_size=2, **options).batches(0))
            for sample_id, clip in by_id(batches).items():
                assert torch.equal(clip, wanted[sample_id])
    assert [s.counts for s, _ in members] == [
        Counter(made=11),
        Counter(received=6),
        Counter(received=5),
    ]


def test_validation_is_shared_and_then_kept(samples, root):
    fixed = {"augment": "none", "temporal": None, "stage": "validation", "cache_bytes": 10**8}
    with joined(root, "ann", "bob") as sharings:
        for epoch in range(2):
            for name, sharing in zip(("ann", "bob"), sharings, strict=True):
                sharing.begin("train", epoch)
                validation = shared(samples, name, sharing, **fixed)
                for _ in range(2):
                    got = list(validation.batches(0))
                    assert_same(got, list(alone(samples, name, **fixed).batches(0)))
    assert [s.counts for s in sharings] == [Counter(made=22), Counter(received=22)]


@pytest.mark.parametrize("damage", ["cut", "longer", "empty"])
def test_a_damaged_clip_is_made_anew(samples, root, damage):
    with joined(root, "ann", "bob") as (ann, bob):
        list(shared(samples, "ann", ann).batches(0))
        for path in root.glob("group/bob.*/0.*"):
            content = path.read_bytes()
            path.write_bytes({"cut": content[:-1], "longer": content * 2, "empty": b""}[damage])
        got = list(shared(samples, "bob", bob).batches(0))
        assert_same(got, list(alone(samples, "bob").batches(0)))
        assert bob.counts == Counter(made=11)


def broken_batch(samples: list[Sample], name: str) -> int:
    """Position of the first batch that cannot be read."""
    position = 0
    with suppress(DecodeError):
        for _ in alone(samples, name).batches(0):
            position += 1
    return position


def test_a_broken_file_ends_every_run_at_its_turn(samples, root, tmp_path):
    broken = tmp_path / "broken.avi"
    broken.write_bytes(b"no video")
    bad = [*samples[1:], replace(samples[0], path=str(broken), content_hash=None)]
    with joined(root, "ann", "bob") as sharings:
        for name, sharing in zip(("ann", "bob"), sharings, strict=True):
            good = alone(samples, name).batches(0)
            batches = shared(bad, name, sharing).batches(0)
            whole = broken_batch(bad, name)
            assert_same(list(islice(batches, whole)), list(islice(good, whole)))
            with pytest.raises(DecodeError, match=r"broken\.avi"):
                next(batches)


def test_leaving_an_epoch_early_ends_its_threads(samples, root):
    with joined(root, "ann", "bob") as (ann, bob):
        batches = shared(samples, "ann", ann, threads=2).batches(0)
        next(batches)
        batches.close()
        got = list(shared(samples, "bob", bob).batches(0))
        assert_same(got, list(alone(samples, "bob").batches(0)))


OTHER = """
import sys, time
from pathlib import Path
from regatta.records.clip_pool import Key, join_pool
facts = {"epochs": 9, "clip_bytes": 1, "recipes": {}}
root = Path(sys.argv[1])
with join_pool(root, "group", "other", facts, limit_bytes=10**8, processes=3) as member:
    with member.claim(Key(0, 0, 4)) as is_ours:
        (member._folder / "giving.0.0.0").write_bytes(bytes(1000))
        print(is_ours, flush=True)
        time.sleep(600)
"""


def start_other(root: Path) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", OTHER, str(root)]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    assert child.stdout.readline() == "True\n"
    return child


@pytest.fixture
def other(root: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process of the group that is at work on the fifth sample and never done."""
    child = start_other(root)
    yield child
    child.kill()
    child.communicate()


def test_a_killed_process_holds_nobody_up_and_its_leavings_go(samples, root, other, monkeypatch):
    monkeypatch.setattr(clip_pool, "LOOK_SECONDS", 0.0)
    with joined(root, "ann") as (ann,):
        batches = shared(samples, "ann", ann).batches(0)
        # The fifth sample belongs to the other.
        got = [next(batches)]
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        got += list(batches)
        assert_same(got, list(alone(samples, "ann").batches(0)))
        assert not list(root.glob("*/other.*"))
    assert not root.exists()


def test_a_halted_process_is_not_waited_for_long(samples, root, other, monkeypatch):
    monkeypatch.setattr(shared_clips, "PATIENCE_SECONDS", 0.2)
    os.kill(other.pid, signal.SIGSTOP)
    with joined(root, "ann") as (ann,):
        got = list(shared(samples, "ann", ann).batches(0))
        assert_same(got, list(alone(samples, "ann").batches(0)))
        with ann.membership.claim(Key(0, 0, 4)) as is_ours:
            assert not is_ours


def test_what_all_members_left_when_killed_is_swept(tmp_path):
    study, memory = tmp_path / "study", tmp_path / "memory"
    study.mkdir()
    memory.mkdir()
    for root in pool_roots(study, shared_memory=memory):
        child = start_other(root)
        sweep_pool(study, shared_memory=memory)
        assert list(root.glob("*/other.*"))
        child.kill()
        child.communicate()
        sweep_pool(study, shared_memory=memory)
        assert not root.exists()


def test_a_pool_that_vanishes_is_done_without(samples, root):
    with joined(root, "ann", "bob") as (ann, bob):
        batches = shared(samples, "ann", ann).batches(0)
        got = [next(batches)]
        # Clips still arrive while it is being removed.
        while root.exists():
            shutil.rmtree(root, ignore_errors=True)
        assert_same([*got, *batches], list(alone(samples, "ann").batches(0)))
        again = list(shared(samples, "bob", bob).batches(0))
        assert_same(again, list(alone(samples, "bob").batches(0)))


def member_of(root: Path, name: str) -> Any:
    facts = {"epochs": 1, "clip_bytes": 1, "recipes": {}}
    return join_pool(root, "group", name, facts, limit_bytes=1, processes=2)


def test_a_place_that_is_not_ours_is_not_used(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = tmp_path / "link"
    link.symlink_to(elsewhere)
    with member_of(link, "ann") as member:
        assert member is None
    file = tmp_path / "file"
    file.write_text("")
    with member_of(file, "ann") as member:
        assert member is None
    assert not list(elsewhere.iterdir())


def test_one_run_has_one_place(root):
    with member_of(root, "ann") as first, member_of(root, "ann") as second:
        assert isinstance(first, Membership)
        assert second is None
        assert (root / "group" / "ann.0of1").is_dir()


def test_little_shared_memory_means_the_study_folder(tmp_path):
    in_memory, in_study = pool_roots(tmp_path)
    assert choose_root(tmp_path, limit_bytes=1) == in_memory
    assert choose_root(tmp_path, limit_bytes=1 << 60) == in_study
    nowhere = tmp_path / "nowhere"
    assert choose_root(tmp_path, limit_bytes=1, shared_memory=nowhere) == in_study
    assert in_study.parent == tmp_path
