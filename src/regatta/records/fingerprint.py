"""What must be equal for two sets of predictions to meet in one table.

The fingerprint travels with the predictions (`judging.json` from the first part on, and
`complete.json`): manifest hash, protocol with all its settings (frame plan, views and how they are
averaged), decoder and its version, resize and crop, hash of the weights, version of the code.
Imported predictions have none: how they were judged is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from regatta.core.errors import RecordError

SHARED_KEYS = ("manifest", "protocol", "sample_ids", "decoder", "resize", "code")
"""Keys that must agree between entries. Others (weights, frames, input size) rightly differ and are
only shown."""
SETTINGS = "settings"
"""Every setting of the protocol by name; `protocol` is a hash of them all."""
UNKNOWN = {"imported": True}
"""The fingerprint of predictions that were made elsewhere by something else."""


def is_unknown(fingerprint: Mapping[str, Any]) -> bool:
    """Whether nothing is known of how these predictions were judged."""
    return bool(fingerprint.get("imported"))


@dataclass(frozen=True)
class Difference:
    """One key in which a run was judged otherwise than the first one."""

    key: str
    first: str
    first_value: Any
    other: str
    other_value: Any

    @property
    def sentence(self) -> str:
        return (
            f"judged differently: {self.key} is {self.first_value!r} in {self.first} and "
            f"{self.other_value!r} in {self.other}"
        )


def differences(fingerprints: Mapping[str, Mapping[str, Any]]) -> list[Difference]:
    """Every key in which a run differs from the first, one row for all runs with the same value.

    Where the settings of a protocol are known on both sides they stand in place of its hash. Runs
    whose judging is not known take no part.

    Args:
        fingerprints: run id -> fingerprint from `complete.json`.
    """
    known = [(name, print_) for name, print_ in fingerprints.items() if not is_unknown(print_)]
    found: dict[tuple[str, str], Difference] = {}
    for name, other in known[1:]:
        first_name, first = known[0]
        for key, ours, theirs in _differing(first, other):
            same = found.get((key, repr(theirs)))
            names = name if same is None else f"{same.other}, {name}"
            found[key, repr(theirs)] = Difference(key, first_name, ours, names, theirs)
    return list(found.values())


def _differing(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    rows = [
        (key, first.get(key), other.get(key))
        for key in SHARED_KEYS
        if first.get(key) != other.get(key)
    ]
    settings = [_flat(each.get(SETTINGS) or {}) for each in (first, other)]
    named = [
        (f"protocol.{key}", settings[0].get(key), settings[1].get(key))
        for key in dict.fromkeys([*settings[0], *settings[1]])
        if all(settings) and settings[0].get(key) != settings[1].get(key)
    ]
    return [row for row in rows if row[0] != "protocol" or not named] + named


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"options": {"pad": 1}} as {"options.pad": 1}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def check_same_conditions(fingerprints: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise RecordError naming every key in which runs were judged differently, with both values.

    Args:
        fingerprints: run id -> fingerprint from `complete.json`.
    """
    found = differences(fingerprints)
    if not found:
        return
    keys = ", ".join(f"'{key}'" for key in dict.fromkeys(each.key for each in found))
    raise RecordError(
        f"these runs were not judged under the same conditions: {keys} "
        f"{'differs' if ',' not in keys else 'differ'}",
        where="; ".join(
            f"{d.key}: {d.first}: {d.first_value!r} against {d.other}: {d.other_value!r}"
            for d in found
        ),
        hint="judge the older ones again: regatta run <study file> --restart RUN_ID; or let them "
        "meet, with every difference named: regatta compare --mix-protocols",
    )


def check_known(fingerprints: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise RecordError naming runs of which it is not known how they were judged; for a study in
    which others were judged here."""
    unknown = [name for name, each in fingerprints.items() if is_unknown(each)]
    if unknown:
        raise RecordError(
            "imported predictions stand beside ones that were judged here, and how they were "
            "judged is not known here",
            where=", ".join(unknown),
            hint="let them meet, with that said beside the verdict: regatta compare "
            "--mix-protocols (compare.mix_protocols: true in the study)",
        )
