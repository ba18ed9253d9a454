"""What is said of places in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from regatta.analysis.bootstrap import Interval
from regatta.analysis.scene_judged import FORECAST, LAST_VISIBLE
from regatta.analysis.scene_pairs import UNIT, error_span, error_text, signed_error_text
from regatta.analysis.wording import count

TARGET_WORDS = {
    FORECAST: "place {frames} after the last frame shown",
    LAST_VISIBLE: "place in the last frame shown (localisation, not a forecast)",
}


def target_words(target: str, horizon_frames: int) -> str:
    """A target in words."""
    written = TARGET_WORDS.get(target, target)
    return written.format(frames=count(horizon_frames, "frame"))


def target_sentence(target: dict[str, Any]) -> str:
    """The verdict on one target: who is closest, and whether the data can tell."""
    what = target_words(target["target"], target["horizon_frames"])
    entries = target["entries"]
    if not entries:
        return f"{what}: not measured"
    ranked = sorted(entries, key=lambda row: row["mse"]["estimate"])
    if len(ranked) == 1:
        mse = as_interval(ranked[0]["mse"])
        return (
            f"{what}: {ranked[0]['entry']} has MSE {error_text(mse.estimate or 0)} "
            f"{error_span(mse)} {UNIT} over {count(target['n'], 'scene')}; nothing to compare with"
        )
    names = {row["entry"] for row in ranked[:2]}
    pair = next(p for p in target["pairs"] if {p["first"], p["second"]} == names)
    return f"{what}: {pair['sentence']}"


def last_position_notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence per entry that does not beat the forecast "it stays where it was last seen"."""
    notes = []
    for row in rows:
        if row["verdict"] == "ahead":
            continue
        difference = as_interval(row["difference"])
        size = f"{signed_error_text(difference.estimate or 0)} {error_span(difference)} {UNIT}"
        said = (
            "is worse than the last position seen"
            if row["verdict"] == "behind"
            else "does not beat the last position seen"
        )
        notes.append(f"the forecast of {row['first']} {said}: MSE {size} against it")
    return notes


def error_verdicts(target: dict[str, Any]) -> dict[str, str]:
    """Entry -> closest, behind the closest, or that the data cannot tell."""
    entries = target["entries"]
    if not entries:
        return {}
    best = min(entries, key=lambda row: row["mse"]["estimate"])["entry"]
    return {row["entry"]: against_best(row["entry"], best, target["pairs"]) for row in entries}


def against_best(name: str, best: str, pairs: Sequence[dict[str, Any]]) -> str:
    """What a table says of one entry beside the leader of its measure; a leader leads alone only
    where every pair with it is decided."""
    mine = [pair for pair in pairs if name in (pair["first"], pair["second"])]
    if name == best:
        untold = [
            pair["second"] if pair["first"] == name else pair["first"]
            for pair in mine
            if pair["verdict"] not in ("ahead", "behind")
        ]
        if not mine:
            return "only entry"
        return f"the data cannot tell it from {', '.join(untold)}" if untold else "first"
    pair = next(pair for pair in mine if best in (pair["first"], pair["second"]))
    words = {
        "ahead": f"behind {best}",
        "behind": f"behind {best}",
        "equivalent": f"equivalent to {best}",
        "identical": f"the same as {best}",
        "few-seeds": f"not enough seeds to tell it from {best}",
    }
    return words.get(pair["verdict"], f"the data cannot tell it from {best}")


def as_interval(found: dict[str, Any]) -> Interval:
    """An interval as it stands in comparison.json."""
    keys = ("estimate", "low", "high", "method", "note")
    return Interval(**{key: found[key] for key in keys})
