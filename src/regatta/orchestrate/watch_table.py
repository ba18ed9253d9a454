"""Draw studies for a terminal of a given size: a table each, troubles below, the machine last."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.text import Text

from regatta.orchestrate.machine_use import GpuUse, MachineUse
from regatta.orchestrate.snapshot import RunView, StudyView
from regatta.orchestrate.words import (
    bar,
    by_urgency,
    duration,
    is_in_trouble,
    percent,
    place,
    position,
    rate,
    rate_of,
    reason,
    share_done,
    sparkline,
    supervision,
)
from regatta.records.status import LIVE, Status

GAP = 2
QUIET, FAINT = "bright_black", "dim"
COLOURS = {
    "done": "green",
    "imported": "green",
    "failed": "bold red",
    "lost": "bold red",
    "unknown": "yellow",
    "running": "cyan",
    "starting": "cyan",
    "stopping": "yellow",
    "interrupted": "yellow",
    "silent": "bold yellow",
}
_RIGHT = frozenset({"share", "samples/s", "left", "best"})
_DROPPED = ("position", "bar", "phase", "where", "samples/s", "share", "validation", "left", "best")
"""What a narrow terminal does without, in this order; `share` stands in once `position` is gone."""
_PROGRESS = ("bar", "share", "position")
"""Columns under one head, which stands over the first of them that there is."""
_BARS = 12
_TROUBLES_SHARE = 3
"""Troubles take at most a third of the screen; the rest of them are counted."""


@dataclass(frozen=True)
class _Part:
    """One study with the runs that will be listed and those that are only counted."""

    view: StudyView
    shown: list[tuple[RunView, dict[str, str]]]
    hidden: list[RunView]


def draw(
    views: Sequence[StudyView], *, width: int, height: int, machine: MachineUse | None = None
) -> Group:
    """Everything that fits on `height` lines of `width` cells, the most urgent runs first."""
    foot = _machine_lines(machine, width) if machine and _works_here(views) else []
    # Title, heads, one run, the count of the others, and a blank line, for each study.
    spare = height - 5 * len(views) - len(foot) - 1
    troubles = _troubles(views, width=width, lines=min(spare, height // _TROUBLES_SHARE))
    taken = len(troubles) + len(foot) + bool(foot) + bool(troubles)
    parts = _share_out(views, height - taken)
    columns = _columns([texts for part in parts for _, texts in part.shown], width)
    drawn: list[Text] = []
    for number, part in enumerate(parts):
        if number:
            drawn.append(Text())
        drawn += _study(part, columns, width)
    if troubles:
        drawn += [Text(), *troubles]
    if foot:
        drawn += [Text(), *foot]
    return Group(*drawn[: max(1, height)])


def _share_out(views: Sequence[StudyView], lines: int) -> list[_Part]:
    """Give each study an equal share of the lines; what one does not need goes to the others."""
    # Title and header of each, and a blank line between two.
    free = lines - 3 * len(views) + 1
    ordered = [by_urgency(view.rows) for view in views]
    given = [0] * len(views)
    for waiting, index in enumerate(sorted(range(len(views)), key=lambda i: len(ordered[i]))):
        share = max(1, free // (len(views) - waiting))
        wanted = len(ordered[index])
        # The line that counts the hidden runs takes the place of one.
        given[index] = wanted if wanted <= share else max(1, share - 1)
        free -= min(wanted, share)
    return [
        _part(view, runs, count) for view, runs, count in zip(views, ordered, given, strict=True)
    ]


def _part(view: StudyView, runs: list[RunView], count: int) -> _Part:
    """The first `count` runs; a crowd in trouble leaves half of the lines to the others."""
    troubled = sum(is_in_trouble(run.status) for run in runs)
    first = min(troubled, max((count + 1) // 2, count - (len(runs) - troubled)))
    chosen = runs[:first] + runs[troubled : troubled + count - first]
    return _Part(
        view,
        [(run, _texts(run)) for run in chosen],
        runs[first:troubled] + runs[troubled + count - first :],
    )


def _study(part: _Part, columns: dict[str, int], width: int) -> list[Text]:
    view = part.view
    if view.problem:
        return [_one_line(Text(f"{view.name}: cannot be read: {view.problem}", "red"), width)]
    # Lines put together here: rich's own table measures every cell again, which costs a
    # supervisor of many runs more than all its other work.
    heads = [Text(_head(name, columns), QUIET) for name in columns]
    lines = [_title(view, width), _row(heads, columns)]
    lines += [
        _row([_cell(name, texts[name], run.status) for name in columns], columns)
        for run, texts in part.shown
    ]
    if part.hidden:
        counts = Counter(_state(run.status) for run in part.hidden).most_common()
        text = ", ".join(f"{count} {state}" for state, count in counts)
        lines.append(_one_line(Text(f"and {len(part.hidden)} more: {text}", QUIET), width))
    return lines


def _row(cells: Sequence[Text], columns: dict[str, int]) -> Text:
    row = Text(no_wrap=True)
    for cell, (name, size) in zip(cells, columns.items(), strict=True):
        space = " " * (size - len(cell))
        row.append(space if name in _RIGHT else "").append_text(cell)
        row.append(("" if name in _RIGHT else space) + " " * GAP)
    row.rstrip()
    return row


def _title(view: StudyView, width: int) -> Text:
    title = Text()
    title.append(view.name, "bold")
    title.append(": ")
    counts = Counter(_state(run.status) for run in view.runs).most_common()
    for number, (state, count) in enumerate(counts):
        title.append(", " if number else "")
        title.append(f"{count} {state}", COLOURS.get(state, ""))
    title.append(f"; {supervision(view)}", QUIET)
    return _one_line(title, width)


def _one_line(text: Text, width: int) -> Text:
    text.truncate(width, overflow="ellipsis")
    return text


def _state(status: Status) -> str:
    return "silent" if status.cause == "silent" else status.state


def _texts(run: RunView) -> dict[str, str]:
    """Column -> a cell's text, by which the width of the column is measured too."""
    status = run.status
    share = share_done(status) if status.state in LIVE else None
    return {
        "run": run.run_id,
        "state": _state(status),
        "phase": status.phase,
        "bar": bar(status, width=_BARS) if share is not None else "",
        "share": "" if share is None else f"{100 * share:.0f} %",
        "position": position(status) if status.state in LIVE else "",
        "samples/s": rate(rate_of(status)),
        "left": duration(status.seconds_left) if status.state in LIVE else "",
        "best": percent(status.metric),
        "validation": sparkline(run.curve, width=_BARS),
        "where": place(status) if status.state in LIVE else "",
    }


_ORDER = (
    "run",
    "state",
    "phase",
    "bar",
    "share",
    "position",
    "samples/s",
    "left",
    "best",
    "validation",
    "where",
)


def _columns(rows: Sequence[dict[str, str]], width: int) -> dict[str, int]:
    """Columns that have something to show and fit side by side, whole: name -> cells."""
    cells = {name: max((len(texts[name]) for texts in rows), default=0) for name in _ORDER}
    columns = {
        name: max(size, 0 if name in _PROGRESS else len(name))
        for name, size in cells.items()
        if size or name in {"run", "state"}
    }
    if "validation" in columns:
        # A curve that grows must not move what stands beside it.
        columns["validation"] = _BARS
    if "position" in columns:
        columns.pop("share", None)
    for name in _DROPPED:
        if sum(columns.values()) + GAP * (len(columns) - 1) <= width:
            break
        if columns.pop(name, None) and name == "position" and cells["share"]:
            columns["share"] = len("100 %")
        if name == "bar" and "share" in columns:
            columns["share"] = len("progress")
    return {name: columns[name] for name in _ORDER if name in columns}


def _head(name: str, columns: Iterable[str]) -> str:
    if name not in _PROGRESS:
        return name
    return "progress" if name == next(each for each in columns if each in _PROGRESS) else ""


def _cell(name: str, text: str, status: Status) -> Text:
    state = _state(status)
    if name == "state":
        return Text(text, COLOURS.get(state, QUIET))
    if name == "bar":
        full = text.rstrip("╌")
        drawn = Text(full, "cyan")
        drawn.append(text[len(full) :], QUIET)
        return drawn
    if name == "validation":
        return Text(text, "blue")
    at_work = status.state in LIVE or is_in_trouble(status) or status.state in {"done", "imported"}
    if name in {"phase", "where", "position"} or not at_work:
        return Text(text, QUIET if not at_work else FAINT if name != "position" else "")
    return Text(text)


def _troubles(views: Sequence[StudyView], *, width: int, lines: int) -> list[Text]:
    """What is wrong and the next step, once for all runs that it is the same for."""
    alike: dict[tuple[str, str, str | None], list[str]] = {}
    for view in views:
        before = f"{view.name}/" if len(views) > 1 else ""
        for run in by_urgency(view.rows):
            status = run.status
            if is_in_trouble(status) and (status.cause or status.next_step):
                key = _state(status), reason(status), status.next_step
                alike.setdefault(key, []).append(before + run.run_id)
    drawn: list[Text] = []
    left = sum(map(len, alike.values()))
    for (state, why, step), names in alike.items():
        block = _trouble(names, why or state, step, COLOURS.get(state, ""), width)
        rest = left - len(names)
        if len(drawn) + len(block) + bool(rest) > lines:
            words = f"{'and ' if drawn else ''}{left} {'more ' if drawn else ''}in trouble"
            drawn.append(Text(f"{words}, see: regatta status", QUIET))
            break
        drawn += block
        left = rest
    return drawn


def _trouble(names: list[str], why: str, step: str | None, colour: str, width: int) -> list[Text]:
    """At most two lines of each."""
    head = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    lines = _folded([(head, "bold"), (f"  {why}", colour.removeprefix("bold "))], width)
    if step:
        lines += _folded([("  next: ", QUIET), (step, "")], width)
    return lines


def _folded(pieces: Sequence[tuple[str, str]], width: int) -> list[Text]:
    """The pieces on one line, or two with the second indented; what is still too long is cut."""
    whole = Text().join(Text(text, style) for text, style in pieces)
    lines = list(whole.wrap(Console(width=width), width - 8)) if len(whole) > width else [whole]
    if len(lines) < 2:
        return [_one_line(each, width) for each in lines]
    second = Text("        ") + Text(" ").join(line for line in lines[1:])
    lines[0].rstrip()
    return [lines[0], _one_line(second, width)]


def _works_here(views: Sequence[StudyView]) -> bool:
    """Whether any process of the studies is on this machine, so that its use tells something."""
    host = socket.gethostname()
    return any(
        (view.supervisor is not None and view.supervisor.host == host and view.supervised)
        or any((run.status.process or {}).get("host") == host for run in view.rows)
        for view in views
    )


def _machine_lines(use: MachineUse, width: int) -> list[Text]:
    """The machine's cores and memory, then its GPUs side by side."""
    line = Text("this machine", QUIET)
    if use.busy is not None:
        line.append("   CPU ", QUIET)
        _append_gauge(line, use.busy)
        line.append(f" of {use.cores} cores", QUIET)
    total = use.memory.total_gib
    used = total - use.memory.available_gib
    line.append("   memory ", QUIET)
    line.append(f"{used:.1f}", _heat(used / total if total else 0.0))
    line.append(f" of {total:.1f} GiB", QUIET)
    lines = [line]
    per_line = max(1, width // 36)
    for first in range(0, len(use.gpus), per_line):
        lines.append(_gpu_line(use.gpus[first : first + per_line]))
    return [_one_line(each, width) for each in lines]


def _gpu_line(gpus: Sequence[GpuUse]) -> Text:
    line = Text()
    for gpu in gpus:
        line.append(f"{'   ' if line else ''}GPU {gpu.index} ", QUIET)
        if gpu.busy is not None:
            _append_gauge(line, gpu.busy)
        line.append(f"  {gpu.used_gib:4.1f} of {gpu.total_gib:.0f} GiB", QUIET)
    return line


def _append_gauge(line: Text, share: float, *, width: int = 8) -> None:
    full = round(width * min(1.0, max(0.0, share)))
    line.append("━" * full, "cyan")
    line.append("╌" * (width - full), QUIET)
    line.append(f" {100 * share:3.0f} %", "default")


def _heat(share: float) -> str:
    return "bold red" if share > 0.95 else "yellow" if share > 0.85 else "default"
