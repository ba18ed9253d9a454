"""Does the order of the entries hold over conditions: ranks, concordance, chances of the leader.

Shapes: E entries, C conditions, D conditions that are counted, R replicates.

Conditions in which every run saw the identical clips are one condition: they count once, or a
protocol could buy agreement by judging the same clips again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from regatta.analysis.bootstrap import Bootstrap
from regatta.analysis.judged import JudgedStudy
from regatta.analysis.tables import csv_text
from regatta.analysis.wording import count

NO_TEST = (
    "Kendall's W describes and is not tested: the conditions are judged on the same samples, so "
    "their orders are not independent"
)
OPPOSITE = {"ahead": "behind", "behind": "ahead"}


def stability_section(
    judged: JudgedStudy, bootstrap: Bootstrap, headline: int, by_condition: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """Section `stability` of comparison.json; None with one entry or one condition.

    Args:
        by_condition: `pairs["by_condition"]`: what the pairs are in each condition.
    """
    if len(judged.entries) < 2 or len(judged.conditions) < 2:
        return None
    together = identical_groups([run.identical for run in judged.runs])
    kept = [headline if headline in group else group[0] for group in together]
    # Sums of equal fractions may differ in the last bit; equal accuracies must tie.
    observed_ED = np.round(bootstrap.observed[:, kept], 12)
    chances_ED = chances_of_first(np.round(bootstrap.replicates[:, :, kept], 12))
    at = kept.index(headline)
    leader = int(np.argmax(observed_ED[:, at]))
    ids = [condition.id for condition in judged.conditions]
    section: dict[str, Any] = {
        "entries": judged.entries,
        "leader": judged.entries[leader],
        "headline": ids[headline],
        "conditions": _condition_rows(
            judged, bootstrap, observed_ED, chances_ED, kept, together, at, leader
        ),
        "merged": [[ids[c] for c in group] for group in together if len(group) > 1],
        "first_in": int((observed_ED[leader] == observed_ED.max(axis=0)).sum()),
        "kendall_w": kendall_w(observed_ED) if len(kept) > 1 else None,
        "first_everywhere_probability": _first_everywhere(bootstrap, kept, leader),
        "pairs": pair_orders(by_condition, ids[headline], [ids[c] for c in kept]),
        "n_conditions": len(kept),
        "n": bootstrap.samples,
        "groups": bootstrap.groups,
        "seeds": list(bootstrap.seeds),
        "replicates": len(bootstrap.replicates),
        "method": "ranks of the accuracies of each condition; chances are shares of the clustered "
        "bootstrap replicates, ties split evenly",
        "correction": f"{judged.study.compare.correction}, as in the pairs of each condition",
        "notes": [NO_TEST],
    }
    return section | {"sentences": stability_sentences(section)}


def identical_groups(identical: Sequence[list[list[int]]]) -> list[list[int]]:
    """Positions of conditions whose clips are the same in every run, each group ascending.

    Args:
        identical: per run and condition the other conditions with identical clips.
    """
    cells = len(identical[0])
    found: list[list[int]] = []
    for c in range(cells):
        if not any(c in group for group in found):
            others = set.intersection(*(set(run[c]) for run in identical))
            found.append(sorted({c, *others}))
    return found


def kendall_w(accuracy_ED: np.ndarray) -> float | None:
    """Kendall's coefficient of concordance of the orders that D conditions give E entries.

    1 = the same order in every condition, 0 = rank sums that are all equal. Ties get mean ranks and
    the corrected denominator (Kendall and Gibbons 1990, Rank correlation methods, chapter 6):
    W = 12 S / (D^2 (E^3 - E) - D sum(t^3 - t)). None where every condition ties all entries.
    """
    from scipy.stats import rankdata

    entries, cells = accuracy_ED.shape
    ranks = rankdata(accuracy_ED, axis=0)
    ties = sum(
        int((sizes**3 - sizes).sum())
        for sizes in (np.unique(column, return_counts=True)[1] for column in accuracy_ED.T)
    )
    whole = cells**2 * (entries**3 - entries) - cells * ties
    if whole == 0:
        return None
    sums = ranks.sum(axis=1)
    return float(12 * ((sums - sums.mean()) ** 2).sum() / whole)


def kendall_tau(first: np.ndarray, second: np.ndarray) -> float | None:
    """Kendall's tau-b of two rows of accuracies [E]; None where one of them ties all entries."""
    from scipy.stats import kendalltau

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.asarray(kendalltau(first, second))[0])


def chances_of_first(replicates: np.ndarray) -> np.ndarray | None:
    """Share of replicates [R, E, D] in which each entry is first, [E, D]; ties split evenly.

    None without replicates.
    """
    if len(replicates) == 0:
        return None
    wins = replicates == replicates.max(axis=1, keepdims=True)
    return (wins / wins.sum(axis=1, keepdims=True)).mean(axis=0)


def _first_everywhere(bootstrap: Bootstrap, kept: list[int], leader: int) -> float | None:
    """Share of replicates in which no entry is ahead of the leader in any condition."""
    if len(bootstrap.replicates) == 0:
        return None
    values = np.round(bootstrap.replicates[:, :, kept], 12)
    return float((values[:, leader] == values.max(axis=1)).all(axis=1).mean())


def _condition_rows(
    judged: JudgedStudy,
    bootstrap: Bootstrap,
    observed_ED: np.ndarray,
    chances_ED: np.ndarray | None,
    kept: list[int],
    together: list[list[int]],
    at: int,
    leader: int,
) -> list[dict[str, Any]]:
    """One row per condition that counts; lists over entries are in the order of the study."""
    rows = []
    for d, c in enumerate(kept):
        column = observed_ED[:, d]
        ranks = (column[None, :] > column[:, None]).sum(axis=1) + 1
        chances = None if chances_ED is None else chances_ED[:, d].tolist()
        rows.append(
            {
                "condition": judged.conditions[c].id,
                "axes": judged.conditions[c].axes,
                "same_as": [judged.conditions[other].id for other in together[d] if other != c],
                "accuracy": bootstrap.observed[:, c].tolist(),
                "rank": ranks.tolist(),
                "tied": [(ranks == rank).sum() > 1 for rank in ranks.tolist()],
                "probability_first": chances,
                "leader_first_probability": None if chances is None else chances[leader],
                "kendall_tau": kendall_tau(column, observed_ED[:, at]),
            }
        )
    return rows


def pair_orders(
    by_condition: list[dict[str, Any]], headline: str, kept: list[str]
) -> list[dict[str, Any]]:
    """Per pair: in which of the `kept` conditions each is decidedly ahead, and where that is the
    opposite of what is decided at the headline.

    Decided = the corrected test and the interval of that condition both say so.
    """
    verdicts: dict[tuple[str, str], dict[str, str]] = {}
    for cell in by_condition:
        if cell["condition"] in kept:
            for pair in cell["pairs"]:
                names = (pair["first"], pair["second"])
                verdicts.setdefault(names, {})[cell["condition"]] = pair["verdict"]
    rows = []
    for (first, second), found in verdicts.items():
        wanted = OPPOSITE.get(found[headline])
        where = {kind: [c for c in kept if found[c] == kind] for kind in OPPOSITE}
        rows.append(
            {
                "first": first,
                "second": second,
                "at_headline": found[headline],
                "first_ahead": where["ahead"],
                "second_ahead": where["behind"],
                "undecided": len(kept) - len(where["ahead"]) - len(where["behind"]),
                "reversed": where[wanted] if wanted else [],
            }
        )
    return rows


def stability_sentences(section: dict[str, Any]) -> list[str]:
    """The section in plain words."""
    cells, first_in, leader = section["n_conditions"], section["first_in"], section["leader"]
    if cells == 1:
        return ["all conditions show the same inputs, so there is one order only"]
    where = f"all {cells}" if first_in == cells else f"{first_in} of {cells}"
    found = [f"{leader} leads at the headline and is first or shares the first place in {where}"]
    found[0] += " conditions" if not section["merged"] else " conditions with different inputs"
    chance = section["first_everywhere_probability"]
    if chance is not None:
        found.append(f"{leader} is unbeaten in every condition in {_share(chance)}")
    w = section["kendall_w"]
    found.append(
        "every condition ties all entries, so Kendall's W is not defined"
        if w is None
        else f"Kendall's W over the conditions is {w:.2f}, where 1 is the same order everywhere "
        "and 0 no common order"
    )
    return found + _pair_sentences(section["pairs"], cells)


def _share(share: float) -> str:
    """A share of the replicates; none and all only when it is exactly that."""
    if share in (0, 1):
        return "no replicate" if share == 0 else "every replicate"
    percent = min(max(round(100 * share), 1), 99)
    return f"{percent} % of the replicates"


def _pair_sentences(pairs: list[dict[str, Any]], cells: int) -> list[str]:
    found = []
    for pair in pairs:
        ahead, behind = len(pair["first_ahead"]), len(pair["second_ahead"])
        if ahead and behind:
            found.append(
                f"{pair['first']} is decidedly ahead of {pair['second']} in "
                f"{count(ahead, 'condition')} and decidedly behind in {behind}"
                + (
                    f"; that is against the headline in {len(pair['reversed'])}"
                    if pair["reversed"]
                    else ""
                )
            )
    if not found:
        many = "the two entries" if len(pairs) == 1 else "any two entries"
        found.append(f"in none of {cells} conditions is the order of {many} decidedly reversed")
    return found


def stability_files(section: dict[str, Any] | None) -> dict[str, str]:
    """File name -> text: a row per condition that counts and entry."""
    if section is None:
        return {}
    axes = list(dict.fromkeys(name for row in section["conditions"] for name in row["axes"]))
    header = ["condition", *axes, "entry", "accuracy", "rank", "tied", "probability_first"]
    header += ["kendall_tau", "leader_first_probability", "same_clips_as"]
    rows = []
    for row in section["conditions"]:
        chances = row["probability_first"] or [None] * len(section["entries"])
        for e, entry in enumerate(section["entries"]):
            rows.append(
                [
                    row["condition"],
                    *(row["axes"].get(name) for name in axes),
                    entry,
                    *(row[key][e] for key in ("accuracy", "rank", "tied")),
                    chances[e],
                    row["kendall_tau"],
                    row["leader_first_probability"],
                    row["same_as"],
                ]
            )
    return {"rank_stability.csv": csv_text(header, rows)}
