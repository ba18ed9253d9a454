"""One decoding for several runs: who comes to a sample first makes its clips for all.

Every run's clip of a sample is settled by (recipe, seed, epoch, sample), so the process that claims
a sample decodes it once and makes, beside its own, the clip of every other live run that is still
to come to it. Clips travel through `records.clip_pool` at the model's size, never source frames. A
sample that another is at work on is left out for the moment: its own next ones come first, so the
work spreads evenly without anyone dealing it out.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Condition
from typing import Any, Literal, Protocol

import torch

from regatta.core.errors import RegattaError
from regatta.data.clip_recipe import ClipRecipe
from regatta.data.manifest import Sample
from regatta.records.clip_pool import Key, Membership, Other

Stage = Literal["train", "validation"]
STAGES: tuple[Stage, ...] = ("train", "validation")

POLL_SECONDS = 0.01
PATIENCE_SECONDS = 5.0
PATIENCE_FACTOR = 20.0
"""A run waits for another's clip this long, or this many times its own slowest making; then it
makes it itself. Only a halted process is that slow: a dead one loses its claim at once."""
TIDY_EVERY = 64
"""Turns after which clips that came too late are removed."""


class ClipMaker(Protocol):
    """What a loader does for its share of the work."""

    recipe: ClipRecipe

    def kept(self, sample: Sample) -> torch.Tensor | None:
        """The sample's clip, where the loader has it already."""
        ...

    def keep(self, sample: Sample, clip: torch.Tensor) -> None: ...

    def make(self, epoch: int, sample: Sample, recipes: Sequence[ClipRecipe]) -> list[torch.Tensor]:
        """The sample's clip for each recipe, from one decoding."""
        ...


@dataclass
class Sharing:
    """A run's part in a group; its two loaders use it in turn."""

    membership: Membership
    pass_number: int | None = None
    """The epoch in training: names the validation behind it. None = not known yet."""
    counts: Counter[str] = field(default_factory=Counter)
    """Clips of ours that were `made` here, and `received`."""

    def begin(self, stage: Stage, epoch: int) -> int | None:
        """Number of a pass over the samples that all members mean alike; None = not shared."""
        if stage == "train":
            self.pass_number = epoch
        return self.pass_number


def member_facts(recipes: dict[Stage, ClipRecipe], *, epochs: int) -> dict[str, Any]:
    """What a member tells the others: `recipes` by stage (`train`, `validation`)."""
    return {
        "epochs": epochs,
        "clip_bytes": max(recipe.clip_bytes for recipe in recipes.values()),
        "recipes": {stage: recipe.as_json() for stage, recipe in recipes.items()},
    }


def shared_clips(
    maker: ClipMaker,
    sharing: Sharing,
    *,
    stage: Stage,
    epoch: int,
    pass_number: int,
    turns: Sequence[tuple[int, Sample]],
    threads: int,
    ahead: int,
) -> Generator[torch.Tensor]:
    """The clips of `turns`, in order, made here or by another run; at most `ahead` before they are
    asked for.

    Args:
        epoch: what clips are drawn for; `pass_number` is what members call this pass.
        turns: (place in the order of the epoch over all ranks, sample).
        threads: that make clips; at least one is used.
    """
    membership, number = sharing.membership, STAGES.index(stage)
    keys = [Key(pass_number, number, place) for place, _ in turns]
    work = _Work(maker, sharing, stage, epoch, keys, [s for _, s in turns], ahead)
    end = Key(pass_number, number + 1, 0)
    membership.tell(keys[0] if keys else end)
    with ThreadPoolExecutor(max(1, threads), thread_name_prefix="regatta-read") as pool:
        workers = [pool.submit(work.run) for _ in range(max(1, threads))]
        try:
            for index in range(len(turns)):
                clip = work.take(index, workers)
                upcoming = keys[index + 1] if index + 1 < len(keys) else end
                membership.tell(upcoming)
                if index % TIDY_EVERY == 0:
                    membership.drop_before(upcoming)
                yield clip
        finally:
            work.close()


@dataclass
class _Work:
    """The turns of one pass, those that are ready, and those that somebody is at."""

    maker: ClipMaker
    sharing: Sharing
    stage: Stage
    epoch: int
    keys: list[Key]
    samples: list[Sample]
    ahead: int
    _ready: dict[int, torch.Tensor | RegattaError] = field(default_factory=dict)
    _busy: set[int] = field(default_factory=set)
    _next: int = 0
    _closed: bool = False
    _changed: Condition = field(default_factory=Condition)
    _waiting_since: float = field(default_factory=time.monotonic)
    _slowest_seconds: float = 0.0

    @property
    def membership(self) -> Membership:
        return self.sharing.membership

    def run(self) -> None:
        """Make clips or fetch them until all turns are ready."""
        while True:
            with self._changed:
                if self._closed or self._next + len(self._ready) >= len(self.keys):
                    return
            if not any(self._attempt(index) for index in self._open_turns()):
                with self._changed:
                    if not self._closed:
                        self._changed.wait(POLL_SECONDS)

    def take(self, index: int, workers: Sequence[Future[None]]) -> torch.Tensor:
        """The clip of the next turn; raises what its making raised."""
        with self._changed:
            self._waiting_since = time.monotonic()
            while index not in self._ready:
                for worker in workers:
                    if worker.done():
                        worker.result()
                self._changed.wait(0.1)
            self._next = index + 1
            clip = self._ready.pop(index)
            self._changed.notify_all()
        if isinstance(clip, RegattaError):
            raise clip
        return clip

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _open_turns(self) -> list[int]:
        with self._changed:
            window = range(self._next, min(self._next + self.ahead, len(self.keys)))
            return [i for i in window if i not in self._ready and i not in self._busy]

    def _attempt(self, index: int) -> bool:
        """Get one turn's clip; False when another run, or another thread, is at it."""
        with self._changed:
            if self._closed or index < self._next or index in self._ready or index in self._busy:
                return False
            self._busy.add(index)
        try:
            clip = self._obtain(index)
        except RegattaError as error:
            # It comes up at its turn, as it would without the others.
            clip = error
        finally:
            with self._changed:
                self._busy.discard(index)
        if clip is None:
            return False
        with self._changed:
            self._ready[index] = clip
            self._changed.notify_all()
        return True

    def _obtain(self, index: int) -> torch.Tensor | None:
        sample = self.samples[index]
        clip = self.maker.kept(sample)
        if clip is None:
            clip = self._receive(index)
        if clip is not None:
            return clip
        with self.membership.claim(self.keys[index]) as is_ours:
            # It may have come between the look and the claim.
            clip = self._receive(index)
            if clip is not None:
                return clip
            if is_ours:
                return self._make_for_all(index)
        return self._make([], index)[0] if self._is_out_of_patience(index) else None

    def _receive(self, index: int) -> torch.Tensor | None:
        recipe = self.maker.recipe
        content = self.membership.receive(self.keys[index], recipe.clip_bytes)
        if content is None:
            return None
        clip = torch.frombuffer(content, dtype=torch.uint8).view(recipe.clip_shape)
        self.maker.keep(self.samples[index], clip)
        self._count(received=1)
        return clip

    def _is_out_of_patience(self, index: int) -> bool:
        waited = time.monotonic() - self._waiting_since
        patience = max(PATIENCE_SECONDS, PATIENCE_FACTOR * self._slowest_seconds)
        return index == self._next and waited > patience

    def _make_for_all(self, index: int) -> torch.Tensor:
        """Our own clip; the others' go into their inboxes."""
        wanting: dict[ClipRecipe, list[Other]] = {}
        for other in self.membership.wanting(self.keys[index]):
            recipe = ClipRecipe.from_json(other.facts["recipes"][self.stage])
            wanting.setdefault(recipe, []).append(other)
        others = [recipe for recipe in wanting if recipe != self.maker.recipe]
        ours, *theirs = self._make(others, index)
        for recipe, clip in [(self.maker.recipe, ours), *zip(others, theirs, strict=True)]:
            if recipe in wanting:
                content = clip.numpy().reshape(-1).data
                self.membership.give(self.keys[index], content, wanting[recipe])
        return ours

    def _make(self, others: Sequence[ClipRecipe], index: int) -> list[torch.Tensor]:
        started = time.monotonic()
        recipes = [self.maker.recipe, *others]
        clips = self.maker.make(self.epoch, self.samples[index], recipes)
        self._slowest_seconds = max(self._slowest_seconds, time.monotonic() - started)
        self._count(made=1)
        return clips

    def _count(self, **clips: int) -> None:
        with self._changed:
            self.sharing.counts.update(clips)
