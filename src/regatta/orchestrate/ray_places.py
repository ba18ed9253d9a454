"""Places of tasks in a Ray cluster: granted before they are needed, kept a moment for the next."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from regatta.orchestrate.ray_host import Host

RESERVE_SECONDS = 2.0
"""Ray grants a placement group within milliseconds where there is room."""
TRY_AGAIN_SECONDS = 5.0
_CALLS = 8
"""Threads of an actor: one waits for the worker's end, the others answer."""


@dataclass
class Place:
    """A placement group that was granted, and the actors in it: one per bundle, once there are."""

    group: Any
    bundles: list[dict[str, float]]
    hosts: list[Any] = field(default_factory=list)
    idle_since: float = 0.0

    def suits(self, bundles: list[dict[str, float]]) -> bool:
        """Whether a task that asks for these bundles may have it: as it asks, or more memory."""
        mine, asked = self.bundles[0], bundles[0]
        same = all(mine.get(name) == asked.get(name) for name in ("CPU", "GPU"))
        return same and len(self.bundles) == len(bundles) and mine["memory"] >= asked["memory"]


class Places:
    """Which places this launch has: reserved for a task by its id, or idle."""

    def __init__(self, ray: ModuleType) -> None:
        self._ray = ray
        self._reserved: dict[str, Place] = {}
        self._idle: list[Place] = []
        self._try_again_at = 0.0

    def take_idle(self, task_id: str, bundles: list[dict[str, float]]) -> bool:
        """Reserve the place of a task that has ended: its actors are up already."""
        place = next((place for place in self._idle if place.suits(bundles)), None)
        if place and task_id not in self._reserved:
            self._idle.remove(place)
            self._reserved[task_id] = place
        return task_id in self._reserved

    def reserve(self, task_id: str, bundles: list[dict[str, float]]) -> bool:
        """Have Ray grant a place now; False when it does not, and for a while after that."""
        from ray.util.placement_group import placement_group

        if time.monotonic() < self._try_again_at:
            return False
        place = Place(placement_group(bundles, strategy="PACK"), bundles)
        if place.group.wait(RESERVE_SECONDS):
            self._reserved[task_id] = place
            return True
        self.give_back(place)
        self._try_again_at = time.monotonic() + TRY_AGAIN_SECONDS
        return False

    def take(self, task_id: str) -> Place | None:
        """The place that is reserved for a task, from now on its own."""
        return self._reserved.pop(task_id, None)

    def hosts_of(self, place: Place) -> list[Any]:
        """The actors of a place, one per bundle; they are made where there are none yet."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        for index in range(len(place.hosts), len(place.bundles)):
            bundle = place.bundles[index]
            options = {
                "num_cpus": bundle["CPU"],
                "num_gpus": bundle.get("GPU", 0),
                "memory": int(bundle["memory"]),
                # A restarted actor would have no worker.
                "max_restarts": 0,
                "max_concurrency": _CALLS,
                "scheduling_strategy": PlacementGroupSchedulingStrategy(
                    place.group, placement_group_bundle_index=index
                ),
            }
            place.hosts.append(self._ray.remote(Host).options(**options).remote())
        return place.hosts

    def keep_idle(self, place: Place) -> None:
        place.idle_since = time.monotonic()
        self._idle.append(place)

    def empty_idle(self, *, seconds: float = 0.0) -> bool:
        """Give back what nobody has wanted for so long; whether there was any."""
        now = time.monotonic()
        unwanted = [place for place in self._idle if now - place.idle_since >= seconds]
        for place in unwanted:
            self._idle.remove(place)
            self.give_back(place)
        return bool(unwanted)

    def give_back(self, place: Place) -> None:
        """End the actors of a place, and with them what works there."""
        from ray.util.placement_group import remove_placement_group

        for host in place.hosts:
            self._ray.kill(host, no_restart=True)
        remove_placement_group(place.group)
        self._try_again_at = 0.0

    def give_back_all(self) -> None:
        """Everything that is reserved or idle."""
        self.empty_idle()
        while self._reserved:
            self.give_back(self._reserved.popitem()[1])
