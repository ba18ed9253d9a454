"""The lines in which `regatta check` shows a study's graph, and what it will take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from regatta.config.schema import Study

GIB = 2**30
FEW = 3
"""Names of a list that are written out."""
MOST_RUNS_LISTED = 12
"""More runs than this are shown by entry, with their number."""
TO_TRAIN = "to be trained and judged"


def graph_lines(study: Study, facts: dict[str, Any]) -> Iterator[str]:
    """data -> training by levels -> judging -> comparison, one line per run or group of runs."""
    samples = facts["samples"]
    read = f"read: {samples['train']} to train on" if samples else "to be read"
    yield f"data        {study.data.source}, {read}"
    runs = facts["runs"]
    for level in sorted({run["level"] for run in runs}):
        rows = list(_rows(study, facts, [run for run in runs if run["level"] == level]))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        yield f"training    level {level}" if level > 1 else "training"
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            yield f"  run {'  '.join(cells)}".rstrip()
    yield f"judging     {_judging(facts)}"
    yield f"comparison  {facts['folder']}/results and report"


def _rows(study: Study, facts: dict[str, Any], runs: list[dict[str, Any]]) -> Iterator[list[str]]:
    is_many = len(facts["runs"]) > MOST_RUNS_LISTED
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in runs:
        key = (run["entry"], run["state"]) if is_many else (run["run_id"],)
        groups.setdefault(key, []).append(run)
    for group in groups.values():
        first = group[0]
        name = _group_name(group) if is_many else first["run_id"]
        needs = f"needs {few(first['needs_entries'])}" if first["needs_entries"] else ""
        estimate = facts["entries"].get(first["entry"])
        if first["state"] != TO_TRAIN or estimate is None:
            yield [name, first["state"], needs, "", "", ""]
            continue
        place = _place(study, facts, first["entry"])
        yield [name, first["state"], needs, place, _memory(estimate), _time(estimate)]


def few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW + 1 else ""
    return ", ".join(names[:FEW] if more else names) + more


def _group_name(group: list[dict[str, Any]]) -> str:
    seeds, folds = ({run[key] for run in group} for key in ("seed", "fold"))
    parts = [f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"]
    if folds != {None}:
        parts.append(f"{len(folds)} fold{'s' if len(folds) > 1 else ''}")
    product = len(seeds) * len(folds) == len(group)
    return f"{group[0]['entry']} x {' x '.join(parts) if product else f'{len(group)} runs'}"


def _place(study: Study, facts: dict[str, Any], entry: str) -> str:
    """Where a run of the entry stands, or what its job asks for."""
    devices = study.launch.devices
    if facts["cluster"]:
        return cluster_words(facts["cluster"])
    gpus = [slot for slot in facts["slots"] if slot.startswith("GPU")]
    if not gpus:
        processes = max(1, round(devices))
        threads = facts["threads"].get(entry, 1)
        word = "process" if processes == 1 else "processes"
        return f"{processes} CPU {word}, {_count(threads, 'thread')}"
    if devices < 1:
        return f"1/{round(1 / devices)} of a GPU" if _is_part(devices) else f"{devices:g} of a GPU"
    if devices > 1:
        return f"{devices:g} GPUs"
    return gpus[0] if len(gpus) == 1 else f"one of {len(gpus)} GPUs"


def _is_part(share: float) -> bool:
    return abs(1 / share - round(1 / share)) < 1e-6


def cluster_words(cluster: dict[str, Any]) -> str:
    """What one job asks for."""
    asked = []
    if cluster.get("takes_gpus", True):
        word = "GPU" if "takes_gpus" in cluster else "device"
        asked.append(f"{cluster['devices']:g} {word}{'s' if cluster['devices'] > 1 else ''}")
    if cluster["nodes"] > 1:
        asked.append(f"on each of {cluster['nodes']} nodes")
    if cluster["threads"]:
        asked.append(_count(cluster["threads"], "CPU"))
    if cluster["memory_gib"]:
        asked.append(f"{cluster['memory_gib']:g} GiB")
    if cluster.get("minutes"):
        asked.append(f"{duration(60 * cluster['minutes'])} at most")
    return f"a job: {', '.join(asked)}"


def _memory(estimate: dict[str, Any]) -> str:
    host, device = estimate["host_gib"], estimate["device_gib"]
    text = f"{host:.1f} GiB" if host else "memory not measured"
    return f"{text}, {device:.1f} GiB of the GPU" if device else text


def _time(estimate: dict[str, Any]) -> str:
    if estimate["train_seconds"] is not None:
        text = f"trains about {duration(estimate['train_seconds'])}"
        basis = estimate["train_basis"]
    elif estimate["epoch_seconds_per_1000"] is not None:
        text = f"an epoch of 1,000 samples about {duration(estimate['epoch_seconds_per_1000'])}"
        basis = estimate["train_basis"]
    elif any("solved for" in note for note in estimate["notes"]):
        return ""
    else:
        return f"time {estimate['train_basis']}"
    notes = "".join(f"; {note}" for note in estimate["notes"])
    return f"{text} ({basis}{notes})"


def _judging(facts: dict[str, Any]) -> str:
    runs = [
        run for run in facts["runs"] if run["state"] in (TO_TRAIN, "trained already, to be judged")
    ]
    text = f"{_count(len(runs), 'run')} under {facts['protocol']}"
    if facts["samples"]:
        text += f", {_count(facts['samples']['judged'], 'sample')}"
    passes = {p["passes_per_sample"] for p in facts["probes"].values() if p["passes_per_sample"]}
    if passes:
        text += f", up to {_count(max(passes), 'pass', 'passes')} of each"
    seconds = [facts["entries"][run["entry"]]["judge_seconds"] for run in runs]
    if seconds and None not in seconds:
        bases = {facts["entries"][run["entry"]]["judge_basis"] for run in runs}
        what = "the models alone take about" if bases == {"probe"} else "about"
        text += f"; {what} {duration(sum(seconds))}"
    return text


def total_lines(facts: dict[str, Any]) -> Iterator[str]:
    """Sums, and whether they fit; each says what it lacks."""
    totals = facts["totals"]
    if totals is None:
        return
    lacks = totals["unknown"]

    def lacking(what: str) -> str:
        return f"not measured for {few(lacks[what])}" if what in lacks else "nothing to do"

    gib = totals["host_gib"]
    at_once = _count(totals["at_once"], "run")
    text = f"{gib:.1f} GiB" if gib else lacking("memory")
    yield f"memory  {at_once} at once: {text}; {totals['host_free_gib']:.1f} GiB are free"
    if totals["device_free_gib"] is not None:
        gib = totals["device_gib"]
        text = f"{gib:.1f} GiB" if gib else lacking("device memory")
        yield f"GPU     on one: {text}; {totals['device_free_gib']:.1f} GiB are free"
    size = totals["disk_bytes"]
    text = _bytes(size) if size is not None else lacking("disk")
    yield f"disk    {text}; {_bytes(totals['disk_free_bytes'])} are free under {facts['folder']}"
    yield f"time    {_total_time(facts, lacking)}"
    for problem in totals["problems"]:
        yield f"note    {problem}"
    if not totals["problems"] and not lacks and totals["host_gib"]:
        yield "fits    yes"


def _total_time(facts: dict[str, Any], lacking: Any) -> str:
    seconds = facts["totals"]["seconds"]
    if seconds is not None:
        without = "" if facts["prepared"] else ", after the data are read"
        return f"about {duration(seconds)}, judging included{without}"
    if not facts["samples"]:
        return "not known before the data are read"
    return lacking("time")


def duration(seconds: float) -> str:
    """In words that promise no more than they know: 40 s, 12 min, 2 h 10 min, 3 days."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours / 24:.1f} days"


def _bytes(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.0f} MiB"


def _count(number: int, word: str, many: str = "") -> str:
    return f"{number:,} {word if number == 1 else many or f'{word}s'}"
