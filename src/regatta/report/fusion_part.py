"""What the page says of a fusion study in sentences."""

from __future__ import annotations

from typing import Any

from regatta.report.facts import sentence
from regatta.report.material import Material
from regatta.report.numbers import percent_text, signed_text

AUGMENT = {
    "per-type": "Augmentation: per type. Each fusion type changes its training images in its own "
    "way, so fusion type and augmentation are confounded.",
    "same-for-all": "Augmentation: the same for all fusion types.",
}
UNKNOWN_AUGMENT = "Augmentation: the study does not say whether it is the same for all fusions."


def fusion_view(material: Material) -> dict[str, Any] | None:
    """The sentences around figures and tables; None without the section."""
    section = material.comparison["fusion"]
    if section is None:
        return None
    names = material.entries
    return {
        "sentences": [sentence(text, []) for text in section["sentences"]],
        "augment": AUGMENT.get(section["augment"], UNKNOWN_AUGMENT),
        "decisions": [sentence(row["sentence"], names) for row in section["decision"]],
        "effects": [text for effects in section["effects"] for text in _effects(effects)],
        "notes": [sentence(text, []) for text in section["notes"]],
    }


def _effects(effects: dict[str, Any]) -> list[str]:
    alpha = f"at alpha {effects['alpha']:g}, " if effects["alpha"] is not None else ""
    found = [*effects["sentences"], *effects["notes"]]
    return [sentence(f"{alpha}{text}", []) for text in found]


OPPONENTS = {
    "fusion gain": "the average of its co-trained experts",
    "against equal cost": "one network of equal training cost",
}
"""The two differences that the verdict is about, and what a fused system is set against."""


def verdict(material: Material) -> tuple[str, str] | None:
    """Whether fusing beats the average of the experts and equal cost, and what that rests on.

    None where the study fuses nothing: then the verdict is that of all entries.
    """
    section = material.comparison.get("fusion")
    if section is None or not section["decision"]:
        return None
    parts = {
        name: [row for row in section["decision"] if row["part"] == name] for name in OPPONENTS
    }
    clauses = [
        _one_system(rows[0], OPPONENTS[name]) if len(rows) == 1 else _systems(rows, OPPONENTS[name])
        for name, rows in parts.items()
    ]
    known = [row for rows in parts.values() for row in rows if row["verdict"] is not None]
    basis = known[0]["sentence"].partition(", paired over ")[2] if known else ""
    basis = sentence(f"paired over {basis}", []) if basis else ""
    return sentence("; ".join(clauses), material.entries), basis


def _one_system(row: dict[str, Any], opponent: str) -> str:
    name, verdict = row["entry"], row["verdict"]
    if verdict is None:
        return f"whether it beats {opponent} is not known ({_short(row)})"
    value = row["difference_points"]
    size = _interval(value, factor=-1 if verdict == "behind" else 1, signed=False)
    signed = _interval(value, factor=1, signed=True)
    return {
        "ahead": f"{name} beats {opponent} by {size}",
        "behind": f"{name} falls behind {opponent} by {size}",
        "equivalent": f"{name} equals {opponent} within the margin: {signed}",
        "identical": f"{name} gives the same answers as {opponent}",
    }.get(verdict, f"the data cannot tell {name} from {opponent}: {signed}")


def _systems(rows: list[dict[str, Any]], opponent: str) -> str:
    """How many fused systems beat the opponent, or that this is open."""
    found = [row["verdict"] for row in rows]
    if not any(found):
        reasons = "; ".join(dict.fromkeys(_short(row) for row in rows))
        return f"whether fusing beats {opponent} is not known ({reasons})"
    if set(found) <= {"undecided", "few-seeds", None}:
        return f"the data cannot tell whether fusing beats {opponent}"
    ahead, total = found.count("ahead"), len(rows)
    who = {0: f"none of {total} fused systems beats", total: f"all {total} fused systems beat"}
    verb = "beats" if ahead == 1 else "beat"
    return f"{who.get(ahead, f'{ahead} of {total} fused systems {verb}')} {opponent}"


def _tally(rows: list[dict[str, Any]]) -> str:
    """How many systems came to which end, those that none came to left out."""
    found = [row["verdict"] for row in rows]
    ends = {
        "ahead": found.count("ahead"),
        "behind": found.count("behind"),
        "no difference within the margin": found.count("equivalent") + found.count("identical"),
        "the data cannot tell": found.count("undecided") + found.count("few-seeds"),
        "not known": found.count(None),
    }
    return ", ".join(f"{text} {number}" for text, number in ends.items() if number)


def _short(row: dict[str, Any]) -> str:
    """Why a part is not known; the opponent stands in the sentence already."""
    return row["reason"].rpartition(": ")[2]


def _interval(value: dict[str, Any], *, factor: int, signed: bool) -> str:
    write = signed_text if signed else percent_text
    text = f"{write(factor * value['estimate'])} points"
    if value["low"] is None or value["high"] is None:
        return text
    ends = sorted((factor * value["low"], factor * value["high"]))
    return f"{text} [{write(ends[0])}, {write(ends[1])}]"


def lede(material: Material) -> list[str]:
    """Under the verdict: by how much, lowest and highest system, and who leads all entries."""
    section = material.comparison["fusion"]
    if section is None:
        return []
    found = [_range(section, name) for name in ("co-training gain", *OPPONENTS)]
    leader = material.comparison["verdict"]["sentence"].partition(", paired over ")[0]
    if len(material.entries) > 1:
        found.append(f"Among all {len(material.entries)} entries, {leader}.")
    return [text for text in found if text]


RANGES = {
    "co-training gain": "Co-training changes the average of the experts by",
    "fusion gain": "Fusing changes it by another",
    "against equal cost": "The fused system differs from one network of equal training cost by",
}


def _range(section: dict[str, Any], part: str) -> str:
    known = [
        row for row in section["decision"] if row["part"] == part and row["verdict"] is not None
    ]
    if not known:
        return ""
    ordered = sorted(known, key=lambda row: row["difference_points"]["estimate"])
    ends = [ordered[0], ordered[-1]] if len(ordered) > 1 else ordered
    told = [
        f"{_interval(row['difference_points'], factor=1, signed=True)} ({row['entry']})"
        for row in ends
    ]
    rows = [row for row in section["decision"] if row["part"] == part]
    tally = f"; {_tally(rows)}" if len(rows) > 1 else ""
    return sentence(f"{RANGES[part]} {' to '.join(told)}{tally}", [])


def origin(material: Material, entry: str) -> str:
    """What a fused system starts from, in words."""
    runs = material.runs_of(entry)
    count = len(runs[0].spec.entry.needs) if runs else 0
    return f"from {count} trained experts" if count else "from trained experts"
