"""The ensemble of a study's entries, from stored predictions and seed by seed: the mean of their
logits, and the mean of their places weighted by 1 / mean squared error on validation.

Shapes: S seeds, E members, N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from regatta.analysis.bootstrap import Interval, tally_by_group
from regatta.analysis.contrast_words import listed
from regatta.analysis.ensemble import mean_logits
from regatta.analysis.judged import JudgedRun, JudgedStudy
from regatta.analysis.paired import adjust, decide, family_correction, sign_flip_test
from regatta.analysis.positions import NO_ERROR, squared_error
from regatta.analysis.scene_errors import STEPS, resample_values
from regatta.analysis.scene_judged import Placed, PlacedRun
from regatta.analysis.scene_pairs import UNIT, error_span, error_text, signed_error_text
from regatta.analysis.wording import points, span

FAVOURS = "its best member is known from these very samples, which favours it"


def ensemble_section(judged: JudgedStudy, placed: Placed, headline: int) -> dict[str, Any] | None:
    """Section `ensemble` of one target; None with a single entry.

    `reason` says why there is none, or why places are not averaged.
    """
    members = placed.entries
    if len(members) < 2:
        return None
    shared = _shared(placed)
    if not shared:
        return {"members": members, "seeds": [], "reason": "no seed is judged for all entries"}
    weights = {seed: member_weights([run.run for run in runs]) for seed, runs in shared.items()}
    parts = {"accuracy": _accuracy(judged, shared, headline)}
    reason = ""
    if any(found is None for found in weights.values()):
        reason = "the error on validation is not recorded for every run: places are not averaged"
    elif not np.isfinite(placed.targets_N3).all(axis=1).any():
        reason = "the true places are not known"
    else:
        known = {seed: found for seed, found in weights.items() if found is not None}
        parts["mse"] = _error(judged, placed, shared, known, headline)
    _add_tests(judged, parts)
    return {
        "members": members,
        "seeds": list(shared),
        "weights": {
            seed: dict(zip(members, found, strict=True))
            for seed, found in weights.items()
            if found is not None
        },
        **{kind: _row(kind, members, part) for kind, part in parts.items()},
        "reason": reason,
        "notes": [FAVOURS],
    }


def member_weights(runs: Sequence[JudgedRun]) -> list[float] | None:
    """1 / mean squared error on validation of each, made to sum to 1; None where one of them is
    not recorded."""
    errors = [validation_error(run) for run in runs]
    if any(error is None or not error > 0 for error in errors):
        return None
    inverse = np.array([1 / error for error in errors if error is not None])
    return (inverse / inverse.sum()).tolist()


def validation_error(run: JudgedRun) -> float | None:
    """Mean squared error of places on validation, of the weights that were kept."""
    found = run.training.get("best_val_mse")
    if found is not None:
        return float(found)
    history, best = run.training.get("history"), run.training.get("best_epoch")
    values = history.get("val_mse") if isinstance(history, dict) else None
    if not values or best is None or not isinstance(history, dict):
        return None
    place = list(history["epoch"]).index(best) if best in history.get("epoch", []) else -1
    return None if place < 0 or values[place] is None else float(values[place])


def _shared(placed: Placed) -> dict[int, list[PlacedRun]]:
    """Seed -> runs in the order of the entries, for the seeds that all of them have."""
    by_place = {(run.entry, run.seed): run for run in placed.runs}
    seeds = dict.fromkeys(run.seed for run in placed.runs_of(placed.entries[0]))
    return {
        seed: [by_place[(name, seed)] for name in placed.entries]
        for seed in seeds
        if all((name, seed) in by_place for name in placed.entries)
    }


Part = dict[str, Any]
"""value_SN of the ensemble, members_ESN, gain_SN (positive = the ensemble is better) against the
best member, and later its interval and p-values."""


def _accuracy(judged: JudgedStudy, shared: dict[int, list[PlacedRun]], headline: int) -> Part:
    own, members = [], []
    for runs in shared.values():
        own.append(mean_logits([run.scores_CNK[headline] for run in runs]) == judged.labels)
        members.append([run.run.correct[headline] for run in runs])
    own_SN, members_ESN = np.stack(own).astype(float), np.swapaxes(np.array(members), 0, 1)
    best = int(members_ESN.mean(axis=(1, 2)).argmax())
    known = np.ones(len(judged.labels), dtype=bool)
    gain = own_SN - members_ESN[best]
    return _part(judged, own_SN, members_ESN.astype(float), best, gain, known)


def _error(
    judged: JudgedStudy,
    placed: Placed,
    shared: dict[int, list[PlacedRun]],
    weights: dict[int, list[float]],
    headline: int,
) -> Part:
    known = np.asarray(np.isfinite(placed.targets_N3).all(axis=1))
    own, members = [], []
    for seed, runs in shared.items():
        places = np.stack([run.positions_CN3[headline] for run in runs])
        mean = np.tensordot(np.array(weights[seed]), places, axes=1)
        own.append(np.where(known, squared_error(mean, placed.targets_N3), 0.0))
        members.append(np.where(known, squared_error(places, placed.targets_N3), 0.0))
    own_SN, members_ESN = np.stack(own), np.swapaxes(np.array(members), 0, 1)
    best = int(members_ESN.mean(axis=(1, 2)).argmin())
    return _part(judged, own_SN, members_ESN, best, members_ESN[best] - own_SN, known)


def _part(
    judged: JudgedStudy,
    own_SN: np.ndarray,
    members_ESN: np.ndarray,
    best: int,
    gain_SN: np.ndarray,
    known_N: np.ndarray,
) -> Part:
    """Resamples the ensemble's values and its gain within each seed."""
    reach = max(float(np.abs(gain_SN).max(initial=0.0)), float(own_SN.max(initial=0.0)), NO_ERROR)
    step = reach / STEPS
    # Whole numbers from 0 are what is resampled: gains go in `reach` higher.
    columns = [own_SN / step, np.where(known_N, gain_SN + reach, 0.0) / step]
    count = np.broadcast_to(known_N, own_SN.shape)
    table = np.stack([np.rint(columns[0]), np.rint(columns[1]), count], axis=1)
    drawn = resample_values(judged, table, [0] * len(own_SN))
    share = known_N.mean()
    return {
        "drawn": drawn,
        "value": lambda a: step * a[..., 0, 0] / a[..., 0, 2],
        "gain": lambda a: step * a[..., 0, 1] / a[..., 0, 2] - reach,
        "gain_SN": gain_SN,
        "step": step,
        "best": best,
        "best_value": float(members_ESN[best].mean() / share),
    }


def _add_tests(judged: JudgedStudy, parts: dict[str, Part]) -> None:
    """p-values of sign flips over whole groups; all parts are one family."""
    settings = judged.study.compare
    codes = np.unique(judged.groups, return_inverse=True)[1]
    raw: list[float | None] = []
    for part in parts.values():
        whole = np.rint(part["gain_SN"].mean(axis=0) / part["step"])
        sums = tally_by_group(whole[None, None], codes)[0][0]
        test = None
        if len(sums) > 1:
            test = sign_flip_test(sums, replicates=settings.replicates, seed=settings.seed)
        raw.append(float(test.p_value[0]) if test else None)
    known = [p for p in raw if p is not None]
    adjusted = adjust(known, family_correction(settings.correction)) if known else raw
    for part, p_value, p_adjusted in zip(parts.values(), raw, adjusted, strict=True):
        part |= {"p_value": p_value, "p_adjusted": p_adjusted}


def _row(kind: str, members: Sequence[str], part: Part) -> dict[str, Any]:
    drawn = part["drawn"]
    value = drawn.interval(
        part["value"], entries=[0], collapse="share" if kind == "accuracy" else "point"
    )
    gain = drawn.interval(part["gain"], entries=[0], collapse="point")
    held = drawn.with_seeds_fixed().interval(part["gain"], entries=[0], collapse="point")
    # What went in as whole steps comes out with rounding of that size.
    is_same = not np.rint(part["gain_SN"] / part["step"]).any()
    verdict = decide(
        gain, part["p_adjusted"], 1 - drawn.confidence, False, is_same, seeds_fixed=held
    )
    best = str(members[int(part["best"])])
    at_least = bool((gain.estimate or 0.0) >= -4 * part["step"])
    return {
        "value": value.as_dict(),
        "gain_over_best": gain.as_dict(),
        "best_member": best,
        "best_value": part["best_value"],
        "at_least_best": at_least,
        "p_value": part["p_value"],
        "p_adjusted": part["p_adjusted"],
        "verdict": verdict,
        "sentence": _sentence(kind, members, (value, gain), part, best, verdict),
    }


def _sentence(
    kind: str,
    members: Sequence[str],
    found: tuple[Interval, Interval],
    part: Part,
    best: str,
    verdict: str,
) -> str:
    value, gain = found
    who = listed(members) if len(members) <= 3 else f"all {len(members)} entries"
    if kind == "accuracy":
        reached = f"{points(100 * (value.estimate or 0))} % {span(value.scaled(100))}"
        single = f"{points(100 * part['best_value'])} %"
        size = f"{points(100 * (gain.estimate or 0), sign=True)} points {span(gain.scaled(100))}"
        name = "accuracy"
    else:
        reached = f"{error_text(value.estimate or 0)} {error_span(value)} {UNIT}"
        single = f"{error_text(part['best_value'])} {UNIT}"
        lower = gain.scaled(-1)
        size = f"{signed_error_text(lower.estimate or 0)} {error_span(lower)} {UNIT}"
        name = "MSE"
    ending = {
        "ahead": "the ensemble is better",
        "behind": "the ensemble is worse",
        "identical": "the two answer the same",
        "few-seeds": "not enough seeds to tell",
    }.get(verdict, "the data cannot tell the two apart")
    side = "at least as good as" if (gain.estimate or 0) >= -4 * part["step"] else "not as good as"
    return (
        f"the ensemble of {who} has {name} {reached}, {side} its best member {best} ({single}): "
        f"difference {size}, {ending}"
    )
