"""What the factorial analysis says, in sentences."""

from __future__ import annotations

from typing import Any

from regatta.analysis.contrast_words import as_interval
from regatta.analysis.wording import points, span

LOGIT, SHARES = "gee_logit", "gee_accuracy"
OVER_GROUPS, OVER_SAMPLES = "anova_groups", "anova_samples"

Section = dict[str, Any]
Test = dict[str, Any]


def factor_sentences(section: Section, alpha: float) -> list[str]:
    """Which factor matters more, then every effect, then where the two scales disagree."""
    effects = section["effects"]
    found = [_comparison_sentence(section, row, alpha) for row in section["comparisons"]]
    found += [_effect_sentence(section, effect, alpha) for effect in effects]
    scales = [_scale_sentence(section, effect["effect"], alpha) for effect in effects]
    return found + [text for text in scales if text]


def find_test(analyses: list[dict[str, Any]], analysis: str | None, effect: str) -> Test | None:
    """The test of an effect in one of the analyses; None where that has none."""
    for candidate in analyses:
        if candidate["name"] == analysis:
            return next((t for t in candidate["tests"] if t["effect"] == effect), None)
    return None


def _comparison_sentence(section: Section, row: dict[str, Any], alpha: float) -> str:
    first, second = row["first"], row["second"]
    ranges = {e["effect"]: e["range_points"] for e in section["effects"]}
    interval = as_interval(row["difference_points"])
    sizes = (
        f"{points(ranges[first])} against {points(ranges[second])} points between best and worst "
        f"level, difference {points(interval.estimate or 0.0)} {span(interval)}"
    )
    share, other = (_eta(section, effect) for effect in (first, second))
    is_larger = share is None or other is None or share >= other
    if share is not None and other is not None:
        sizes += f"; partial eta squared {share:.2f} against {other:.2f}"
    is_clear = row["is_clear"] and _is_seen(section, first, alpha)
    if is_clear and not is_larger:
        return (
            f"{factor_word(first)} moves accuracy over a wider range than {factor_word(second)}, "
            f"but accounts for no larger share of the spread: {sizes}"
        )
    if is_clear:
        return f"{factor_word(first)} matters more than {factor_word(second)}: {sizes}"
    return (
        f"the data cannot tell whether {factor_word(first)} matters more than "
        f"{factor_word(second)}: {sizes}"
    )


def factor_word(name: str) -> str:
    return {"model": "the choice of model", "condition": "the condition"}.get(name, name)


def shown_effect(name: str) -> str:
    return name.replace(" x ", " × ")


def _rest(section: Section, effect: str) -> str | None:
    return next(row["rests_on"] for row in section["effects"] if row["effect"] == effect)


def _is_seen(section: Section, effect: str, alpha: float) -> bool:
    test = find_test(section["analyses"], _rest(section, effect), effect)
    return test is not None and test["p_adjusted"] is not None and test["p_adjusted"] < alpha


def _eta(section: Section, effect: str) -> float | None:
    """Partial eta squared over groups; over samples where groups are no subjects."""
    tested = [a["name"] for a in section["analyses"] if a["tests"]]
    source = next((name for name in (OVER_GROUPS, OVER_SAMPLES) if name in tested), None)
    test = find_test(section["analyses"], source, effect)
    return None if test is None else test["partial_eta_squared"]


def _effect_sentence(section: Section, effect: dict[str, Any], alpha: float) -> str:
    name, factors = effect["effect"], effect["factors"]
    test = find_test(section["analyses"], effect["rests_on"], name)
    if test is None:
        return f"{shown_effect(name)} is not tested: {_why_not(section, name)}"
    numbers = _numbers(section, effect, test)
    is_seen = test["p_adjusted"] < alpha
    if len(factors) == 1:
        best, worst = _ends(effect["levels"])
        size = f"{points(effect['range_points'])} points between {best} (best) and {worst} (worst)"
        if is_seen:
            return f"accuracy depends on {factor_word(name)}: {size} ({numbers})"
        return f"the data do not show that {factor_word(name)} matters: {size} ({numbers})"
    claim = _interaction_words(factors)
    return f"{claim} ({numbers})" if is_seen else f"the data do not show that {claim} ({numbers})"


def _ends(levels: list[dict[str, Any]]) -> tuple[str, str]:
    """The levels with the highest and the lowest accuracy."""
    ordered = sorted(levels, key=lambda level: level["accuracy"])
    return ordered[-1]["level"], ordered[0]["level"]


def _interaction_words(factors: list[str]) -> str:
    """`model` is always the first factor where it is one."""
    words = [factor_word(name) for name in factors]
    if len(words) == 2:
        if factors[0] == "model":
            return f"the models react differently to {words[1]}"
        return f"the effect of {words[0]} depends on {words[1]}"
    joint = f"the joint effect of {' and '.join(words[1:])}"
    if factors[0] == "model":
        return f"{joint} differs between the models"
    return f"{joint} depends on {words[0]}"


def _numbers(section: Section, effect: dict[str, Any], test: Test) -> str:
    is_variance = effect["rests_on"] == OVER_GROUPS
    parts = [f"{f_words(test)}, {p_words(test['p_adjusted'])}"]
    if len(effect["factors"]) > 1:
        parts.insert(0, f"{shown_effect(effect['effect'])}:")
    eta = _eta(section, effect["effect"])
    text = " ".join(parts)
    if eta is not None:
        text += f", partial eta squared {eta:.2f}"
    return f"{text}; by analysis of variance over groups" if is_variance else text


def f_words(test: Test) -> str:
    """`F(4, 695) = 12.3`; degrees of freedom as corrected by epsilon where there is one."""
    epsilon = test.get("epsilon") or 1.0
    df1, df2 = (freedom_text(epsilon * test[key]) for key in ("df1", "df2"))
    return f"F({df1}, {df2}) = {f_text(test['f'])}"


def freedom_text(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def f_text(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def p_words(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def _why_not(section: Section, effect: str) -> str:
    """The reason of the clustered model, which comes first."""
    for analysis in (SHARES, OVER_GROUPS):
        test = find_test(section["analyses"], analysis, effect)
        if test is not None and test["reason"]:
            return test["reason"]
    return "no analysis that keeps groups whole could test it"


def _scale_sentence(section: Section, effect: str, alpha: float) -> str:
    """An interaction may be there on one scale only; main effects agree or are both weak."""
    tests = [find_test(section["analyses"], name, effect) for name in (LOGIT, SHARES)]
    values = [None if test is None else test["p_adjusted"] for test in tests]
    if any(value is None for value in values):
        return ""
    seen = [value < alpha for value in values if value is not None]
    if seen[0] == seen[1]:
        return ""
    on, off = ("logit scale", "scale of accuracies")[:: 1 if seen[0] else -1]
    return (
        f"{shown_effect(effect)} is seen on the {on} but not on the {off}: what it means depends "
        "on the scale"
    )


def factor_methods(section: Section) -> str:
    """Sentences for a paper, with citations; empty where no effect could be tested."""
    if not any(effect["rests_on"] for effect in section["effects"]):
        return ""
    names = [factor["name"] for factor in section["factors"]]
    tested = f"factor {names[0]} was" if len(names) == 1 else f"factors {' × '.join(names)} were"
    plural = "classes" if section["unit"] == "class" else "groups"
    correction = section["correction"]
    family = "not corrected" if correction == "none" else f"corrected ({correction}) over effects"
    return (
        f"The {tested} tested by a marginal model of right answers with a mean of its own for "
        f"every cell, fitted by generalised estimating equations (Liang and Zeger 1986) with "
        f"{plural} as clusters; effects were tested by Wald statistics with the small-sample F of "
        "Korn and Graubard (1990) at the effective number of clusters (Carter, Schnepel and "
        f"Steigerwald 2017), {family}. Partial eta squared comes from a repeated-measures analysis "
        "of variance with the correction of Greenhouse and Geisser (1959). Seeds of a model were "
        "averaged."
    )
