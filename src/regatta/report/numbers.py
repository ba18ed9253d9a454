"""Numbers as texts: percentages, differences, p-values, durations, large counts."""

from __future__ import annotations

from regatta.report.tables import NOT_MEASURED


def percent_text(value: float) -> str:
    return f"{value:.1f}".replace("-", "−")


def signed_text(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def p_text(value: float | None) -> str:
    """A p-value as papers print it."""
    if value is None:
        return NOT_MEASURED
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def chance_text(share: float) -> str:
    """A probability from replicates; 0 and 100 % only when it is exactly that."""
    text = f"{100 * share:.0f} %"
    return {"0 %": "< 1 %", "100 %": "> 99 %"}.get(text, text) if 0 < share < 1 else text


def duration_text(seconds: float) -> str:
    """Seconds as a person says them: 80 ms, 45 s, 12 min, 3.5 h."""
    if 0 < seconds < 0.1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def energy_text(joules: float) -> str:
    """Joules with k or M."""
    for factor, unit in ((1e6, "MJ"), (1e3, "kJ")):
        if joules >= factor:
            return f"{joules / factor:.3g} {unit}"
    return f"{joules:.3g} J"


def count_text(value: float) -> str:
    """A large count with k, M, G or T."""
    for factor, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"
