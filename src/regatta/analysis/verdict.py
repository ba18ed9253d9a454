"""The verdict: what the pairs say of the two entries that lead at the headline."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from regatta.analysis import wording
from regatta.analysis.bootstrap import Bootstrap
from regatta.analysis.judged import JudgedStudy

OPEN = ("undecided", "few-seeds")
"""Verdicts that leave the question open."""


def verdict_section(
    judged: JudgedStudy,
    bootstrap: Bootstrap,
    ranking: dict[str, Any],
    pairs: dict[str, Any],
    power: dict[str, Any] | None,
    headline: int,
) -> dict[str, Any]:
    """Section `verdict`; `outlook` says what the study could have seen where it told nothing."""
    order = [row["entry"] for row in ranking["headline"]]
    common = {"condition": judged.conditions[headline].id, "leader": order[0]}
    if len(order) == 1:
        accuracy = bootstrap.interval(lambda a: a[..., 0, headline], entries=[0], collapse="share")
        sentence = wording.single_sentence(
            order[0],
            accuracy,
            samples=bootstrap.samples,
            groups=bootstrap.groups,
            seeds=bootstrap.seeds[0],
            group_word=judged.group_word,
        )
        kind = {"kind": "single", "sentence": sentence, "details": [], "average": [], "outlook": ""}
        return {**kind, **common, "runner_up": None}
    by_names = {frozenset((p["first"], p["second"])): p for p in pairs["headline"]}
    top = by_names[frozenset(order[:2])]
    return {
        "kind": "ahead" if top["verdict"] == "behind" else top["verdict"],
        "sentence": top["sentence"],
        **common,
        "runner_up": order[1],
        "details": [by_names[frozenset(names)]["sentence"] for names in combinations(order, 2)],
        "average": [pair["sentence"] for pair in pairs["average"]],
        "outlook": _outlook(power, set(order[:2])) if top["verdict"] in OPEN else "",
    }


def _outlook(power: dict[str, Any] | None, names: set[str]) -> str:
    found = power["pairs"] if power else []
    return next((p["sentence"] for p in found if {p["first"], p["second"]} == names), "")
