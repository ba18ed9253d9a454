"""Which factors matter: model and protocol axes, tested within samples and groups.

Shapes: E entries, C conditions, S seeds of an entry, N samples, G groups, P = E x C cells.

Four analyses of the same cells stand side by side, because each has a fault that another lacks: the
clustered model of right answers on the logit scale and on the scale of accuracies (whole groups,
any correlation, few assumptions, needs many groups), and the repeated-measures analysis of variance
over groups (few groups do, groups count equally) and over samples (the usual one, which takes the
samples of a group as independent).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from regatta.analysis.bootstrap import Bootstrap, tally_by_group
from regatta.analysis.factor_words import (
    LOGIT,
    OVER_GROUPS,
    OVER_SAMPLES,
    SHARES,
    factor_methods,
    factor_sentences,
    find_test,
)
from regatta.analysis.gee import boundary_cells, cell_model, clustered_tests
from regatta.analysis.judged import JudgedStudy
from regatta.analysis.paired import adjust, family_correction
from regatta.analysis.tables import csv_text
from regatta.analysis.within_subjects import Factor, effect_name, effects_of, repeated_measures
from regatta.analysis.wording import count
from regatta.records.conditions import Condition

FEWEST_GROUPS = 10
"""Below this a group is no subject: the covariance of the cells would rest on too little."""
SHOWN_CELLS = 6


@dataclass(frozen=True)
class Design:
    """Factors of a study, and where the cells of their lattice stand in entries x conditions."""

    factors: list[Factor]
    order: np.ndarray
    """[P]: position in the flattened [E, C] of each cell, the last factor fastest."""
    cells: list[str]
    """[P], each cell in words."""

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(len(factor.levels) for factor in self.factors)

    def lattice(self, values_EC: np.ndarray) -> np.ndarray:
        """[..., E, C] -> [..., levels of the first factor, of the second, ...]."""
        leading = values_EC.shape[:-2]
        return values_EC.reshape(*leading, -1)[..., self.order].reshape(*leading, *self.sizes)


def design_of(entries: Sequence[str], conditions: Sequence[Condition]) -> Design:
    """Model, where there are two entries, and the axes of a full crossing or else `condition`."""
    factors, places = _condition_factors(conditions)
    if len(entries) > 1:
        factors = [Factor("model", tuple(entries)), *factors]
    cells = len(conditions)
    order = np.concatenate([e * cells + places for e in range(len(entries))])
    words = [
        ", ".join(part for part in (entry if len(entries) > 1 else "", conditions[c].id) if part)
        for entry in entries
        for c in places
    ]
    return Design(factors, order, words)


def _condition_factors(conditions: Sequence[Condition]) -> tuple[list[Factor], np.ndarray]:
    """Factors of the protocol, and the conditions [C] in the order of their lattice."""
    if len(conditions) == 1:
        return [], np.zeros(1, dtype=int)
    names = sorted(conditions[0].axes)
    if names and all(sorted(c.axes) == names for c in conditions):
        values = {name: _levels([c.axes[name] for c in conditions]) for name in names}
        varying = [name for name in names if len(values[name]) > 1]
        shape = [len(values[name]) for name in varying]
        found = [tuple(values[n].index(_word(c.axes[n])) for n in varying) for c in conditions]
        if len(set(found)) == len(conditions) == int(np.prod(shape)):
            factors = [Factor(name, tuple(values[name])) for name in varying]
            return factors, np.argsort([np.ravel_multi_index(place, shape) for place in found])
    factor = Factor("condition", tuple(condition.id for condition in conditions))
    return [factor], np.arange(len(conditions))


def _levels(values: list[Any]) -> list[str]:
    """Different values in words: numbers by size, others by first appearance."""
    different = {_word(value): value for value in values}
    if all(isinstance(value, (int, float)) for value in different.values()):
        return sorted(different, key=lambda word: different[word])
    return list(different)


def _word(value: Any) -> str:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"{value:g}" if is_number else str(value)


def factor_section(judged: JudgedStudy, bootstrap: Bootstrap) -> dict[str, Any]:
    """All analyses of the factors; without any factor only a `reason`."""
    design = design_of(judged.entries, judged.conditions)
    correction = family_correction(judged.study.compare.correction)
    unit = "class" if judged.unit == "class" else "group"
    section: dict[str, Any] = {
        "factors": [{"name": f.name, "levels": list(f.levels)} for f in design.factors],
        "n": bootstrap.samples,
        "groups": bootstrap.groups,
        "unit": unit,
        "seeds": dict(zip(judged.entries, bootstrap.seeds, strict=True)),
        "replicates": len(bootstrap.replicates),
        "correction": correction,
        "effects": [],
        "comparisons": [],
        "analyses": [],
        "identical": _identical_cells(judged),
        "sentences": [],
        "notes": [],
        "methods": "",
        "reason": "",
    }
    if not design.factors:
        reason = "there is one entry in one condition, so there is no factor to test"
        return {**section, "reason": reason}
    analyses = _analyses(judged, design, correction)
    alpha = 1 - bootstrap.confidence
    section["analyses"] = analyses
    section["effects"] = _effects(design, bootstrap, analyses)
    section["comparisons"] = _comparisons(design, bootstrap, section["effects"])
    section["notes"] = _notes(section)
    section["sentences"] = factor_sentences(section, alpha)
    section["methods"] = factor_methods(section)
    return section


def _analyses(judged: JudgedStudy, design: Design, correction: str) -> list[dict[str, Any]]:
    sizes, right_GP = _by_group(judged, design)
    unit = "class" if judged.unit == "class" else "group"
    found = [
        {"name": LOGIT, "scale": "logit", "subject": unit, **_logit(right_GP, sizes, design)},
        {"name": SHARES, "scale": "accuracy", "subject": unit, **_shares(right_GP, sizes, design)},
        {
            "name": OVER_GROUPS,
            "scale": "accuracy",
            "subject": unit,
            **_over_groups(right_GP, sizes, design, unit),
        },
    ]
    if judged.unit == "sample":
        tests = repeated_measures(_by_sample(judged, design), design.factors)
        over = {"subjects": len(judged.labels), "tests": tests, "reason": ""}
        found.append({"name": OVER_SAMPLES, "scale": "accuracy", "subject": "sample", **over})
    for analysis in found:
        analysis["groups"] = len(sizes)
        _correct(analysis["tests"], correction)
    return found


def _by_group(judged: JudgedStudy, design: Design) -> tuple[np.ndarray, np.ndarray]:
    """Samples per group [G], and right answers per group and cell averaged over seeds [G, P]."""
    codes = np.unique(judged.groups, return_inverse=True)[1]
    tables = []
    for entry in judged.entries:
        runs = judged.runs_of(entry)
        summed_CN = np.sum([run.correct for run in runs], axis=0)
        tables.append(tally_by_group(summed_CN[None], codes)[0][0] / len(runs))
    right_GP = np.concatenate(tables, axis=1)[:, design.order]
    return np.bincount(codes), right_GP


def _by_sample(judged: JudgedStudy, design: Design) -> np.ndarray:
    """Share of seeds that were right, [N, P]."""
    tables = [
        np.mean([run.correct for run in judged.runs_of(entry)], axis=0) for entry in judged.entries
    ]
    return np.concatenate(tables)[design.order].T


def _logit(right_GP: np.ndarray, sizes: np.ndarray, design: Design) -> dict[str, Any]:
    at_end = boundary_cells(right_GP, sizes)
    if len(at_end):
        shown = "; ".join(design.cells[cell] for cell in at_end[:SHOWN_CELLS])
        more = f" and {len(at_end) - SHOWN_CELLS} more" if len(at_end) > SHOWN_CELLS else ""
        reason = f"no logit at 0 or 100 %: {shown}{more}"
        return {"subjects": len(sizes), "tests": [], "reason": reason}
    tests = clustered_tests(cell_model(right_GP, sizes, link="logit"), design.factors)
    return {"subjects": len(sizes), "tests": tests, "reason": ""}


def _shares(right_GP: np.ndarray, sizes: np.ndarray, design: Design) -> dict[str, Any]:
    tests = clustered_tests(cell_model(right_GP, sizes, link="identity"), design.factors)
    return {"subjects": len(sizes), "tests": tests, "reason": ""}


def _over_groups(
    right_GP: np.ndarray, sizes: np.ndarray, design: Design, unit: str
) -> dict[str, Any]:
    """Groups count equally whatever their size; not given twice where a group is a sample."""
    result: dict[str, Any] = {"subjects": len(sizes), "tests": [], "reason": ""}
    if sizes.max() == 1:
        return {**result, "reason": "every group is one sample: see the analysis over samples"}
    if len(sizes) < FEWEST_GROUPS:
        plural = "classes" if unit == "class" else "groups"
        reason = f"{len(sizes)} {plural} are too few to be subjects (fewer than {FEWEST_GROUPS})"
        return {**result, "reason": reason}
    return {**result, "tests": repeated_measures(right_GP / sizes[:, None], design.factors)}


def _correct(tests: list[dict[str, Any]], correction: str) -> None:
    """Adds p_adjusted over the effects of one analysis; epsilon-corrected where there is one."""
    raw = [test.get("p_greenhouse_geisser", test["p_value"]) for test in tests]
    known = [p for p in raw if p is not None]
    adjusted = iter(adjust(known, correction))
    for test, p_value in zip(tests, raw, strict=True):
        test["p_adjusted"] = None if p_value is None else next(adjusted)


def _effects(
    design: Design, bootstrap: Bootstrap, analyses: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Per effect the analysis that its sentence rests on; main effects with their level means."""
    found = []
    for effect in effects_of(design.factors):
        name = effect_name(design.factors, effect)
        row: dict[str, Any] = {
            "effect": name,
            "factors": [design.factors[f].name for f in effect],
            "rests_on": _rests_on(name, analyses),
            "range_points": None,
            "levels": [],
        }
        if len(effect) == 1:
            factor = design.factors[effect[0]]
            means = level_means(design, effect[0])(bootstrap.observed)
            row["range_points"] = 100 * float(np.ptp(means))
            row["levels"] = [
                {"level": level, "accuracy": float(mean)}
                for level, mean in zip(factor.levels, means, strict=True)
            ]
        found.append(row)
    return found


def level_means(design: Design, factor: int) -> Callable[[np.ndarray], np.ndarray]:
    """Accuracies [..., E, C] -> mean of each level of a factor over all other factors [..., l]."""

    def means(accuracy: np.ndarray) -> np.ndarray:
        lattice = design.lattice(accuracy)
        first = accuracy.ndim - 2
        others = tuple(first + f for f in range(len(design.sizes)) if f != factor)
        return lattice.mean(axis=others)

    return means


def _rests_on(effect: str, analyses: list[dict[str, Any]]) -> str | None:
    """The first analysis that tests the effect and keeps groups whole."""
    whole = [LOGIT, SHARES, OVER_GROUPS]
    if any(a["name"] == OVER_SAMPLES and a["subjects"] == a["groups"] for a in analyses):
        whole.append(OVER_SAMPLES)
    for name in whole:
        test = find_test(analyses, name, effect)
        if test is not None and test["f"] is not None:
            return name
    return None


def _comparisons(
    design: Design, bootstrap: Bootstrap, effects: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Each factor against the next smaller one by the range of their level means."""
    mains = [row for row in effects if len(row["factors"]) == 1]
    ordered = sorted(range(len(mains)), key=lambda f: -mains[f]["range_points"])
    found = []
    for first, second in pairwise(ordered):

        def difference(
            accuracy: np.ndarray, first: int = first, second: int = second
        ) -> np.ndarray:
            ranges = (np.ptp(level_means(design, f)(accuracy), axis=-1) for f in (first, second))
            return next(ranges) - next(ranges)

        everyone = range(len(bootstrap.seeds))
        interval = bootstrap.interval(difference, entries=everyone, collapse="difference")
        found.append(
            {
                "first": mains[first]["effect"],
                "second": mains[second]["effect"],
                "difference_points": interval.scaled(100).as_dict(),
                "is_clear": interval.excludes_zero,
            }
        )
    return found


def _identical_cells(judged: JudgedStudy) -> dict[str, list[list[str]]]:
    """Per entry the sets of conditions that show identical clips."""
    found = {}
    for entry in judged.entries:
        others = judged.runs_of(entry)[0].identical
        sets = {tuple(sorted({c, *same})) for c, same in enumerate(others) if same}
        found[entry] = [[judged.conditions[c].id for c in cells] for cells in sorted(sets)]
    return {entry: sets for entry, sets in found.items() if sets}


def _entries_by_sets(
    identical: dict[str, list[list[str]]],
) -> list[tuple[list[list[str]], list[str]]]:
    """Entries with the same sets of identical conditions together."""
    found: list[tuple[list[list[str]], list[str]]] = []
    for entry, sets in identical.items():
        known = next((names for seen, names in found if seen == sets), None)
        if known is None:
            found.append((sets, [entry]))
        else:
            known.append(entry)
    return found


def _notes(section: dict[str, Any]) -> list[str]:
    """What limits the analyses, each a sentence."""
    notes = []
    for sets, entries in _entries_by_sets(section["identical"]):
        shown = "; ".join(" = ".join(cells) for cells in sets[:SHOWN_CELLS])
        more = f" and {len(sets) - SHOWN_CELLS} more sets" if len(sets) > SHOWN_CELLS else ""
        notes.append(
            f"{', '.join(entries)}: the same input stands in {shown}{more}; between such "
            "conditions nothing can differ, so they add no evidence that a factor matters"
        )
    if any(analysis["name"] == OVER_SAMPLES for analysis in section["analyses"]):
        if section["groups"] < section["n"]:
            notes.append(
                "the analysis of variance over samples takes the samples of a group as "
                "independent, so its F is too large: read the clustered tests and the one over "
                "groups"
            )
    else:
        notes.append("only how many of each class were right is known, so classes are the subjects")
    notes.append(
        "seeds are held fixed: the tests ask about other samples, not about other trainings, so "
        "training noise is not in them"
    )
    if 1 < section["groups"] < FEWEST_GROUPS:
        notes.append(f"only {count(section['groups'], 'group')}: the clustered tests are rough")
    return notes


CSV_COLUMNS = (
    "f",
    "df1",
    "df2",
    "p_value",
    "epsilon",
    "p_greenhouse_geisser",
    "p_adjusted",
    "partial_eta_squared",
    "generalised_eta_squared",
    "wald",
    "contrasts",
)


def factor_files(section: dict[str, Any]) -> dict[str, str]:
    """`factors.csv`: one row per analysis and effect; none without a factor."""
    if not section["analyses"]:
        return {}
    ranges = {row["effect"]: row["range_points"] for row in section["effects"]}
    header = ["analysis", "scale", "subject", "subjects", "effect", "range_points"]
    rows = []
    for analysis in section["analyses"]:
        about = [analysis[key] for key in ("name", "scale", "subject", "subjects")]
        if analysis["reason"]:
            rows.append([*about, "", None, *[None] * len(CSV_COLUMNS), analysis["reason"]])
        for test in analysis["tests"]:
            numbers = [test.get(key) for key in CSV_COLUMNS]
            rows.append([*about, test["effect"], ranges[test["effect"]], *numbers, test["reason"]])
    return {"factors.csv": csv_text([*header, *CSV_COLUMNS, "reason"], rows)}
