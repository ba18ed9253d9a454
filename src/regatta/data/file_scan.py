"""Open every video file once: facts by full decode, in parallel, remembered, stoppable.

A file on which the decoder crashes or hangs is one that cannot be decoded, like any other.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import av

from regatta.core.errors import DecodeError, StopRequested
from regatta.core.files import append_json_line, ensure_writable
from regatta.data.decode import Probe
from regatta.data.scan_processes import ScanProcesses

Progress = Callable[[int, int, str], None]
"""Called with (files done, files in all, what is done); once before the first file."""
Stop = Callable[[], bool]
FileKey = tuple[str, int, int]

CACHE_NAME = "probes.jsonl"
PROBE_VERSION = f"2, av {av.__version__}"
"""Remembered facts of another version are not used: another FFmpeg may count otherwise."""

_POLL_SECONDS = 0.2
_WAITING_PER_CORE = 8
_BYTES_WORTH_A_PROCESS = 1 << 20
_HEADER_BYTES = 1 << 16
RAW_STREAMS = frozenset({"h264", "hevc"})
"""Containers that are none: FFmpeg then says 25 frames per second whatever the truth is."""


def scan_files(
    paths: Sequence[Path],
    *,
    cache_folder: Path,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> dict[Path, Probe | str]:
    """What each file holds, or why it cannot be decoded; one process per core.

    Facts are appended to `cache_folder` under path, size and time as they come, so after a stop
    only the rest is opened. Failures are not remembered: a repaired disk is looked at again.

    Raises:
        StopRequested: `stop()` became true.
        DiskError: the cache folder cannot be written.
        EnvironmentFault: no process can be started, or they are killed from outside.
    """
    ensure_writable(cache_folder)
    cache = cache_folder / CACHE_NAME
    known = _read_cache(cache)
    keys = {path: _file_key(path) for path in paths}
    found: dict[Path, Probe | str] = {
        path: known[key] for path, key in keys.items() if key is not None and key in known
    }
    if progress is not None:
        progress(len(found), len(paths), "scanning")
    todo = [path for path in paths if path not in found]
    pool, processes = ThreadPoolExecutor(_processes_for(todo, keys)), ScanProcesses(stop)
    try:
        for path, future in _probed(todo, pool, processes, stop):
            try:
                found[path] = facts = future.result()
            except DecodeError as error:
                found[path] = error.what
            except StopRequested as error:
                raise _stopped() from error
            else:
                key = keys[path]
                if key is not None and key == _file_key(path):
                    append_json_line(cache, _cache_record(key, facts))
            if progress is not None:
                progress(len(found), len(paths), f"scanning {path.name}")
    finally:
        pool.shutdown(cancel_futures=True)
        processes.close()
    return {path: found[path] for path in paths}


def _probed(
    paths: Sequence[Path], pool: Executor, processes: ScanProcesses, stop: Stop | None
) -> Iterator[tuple[Path, Future[Probe]]]:
    """Each file and its finished probe, as they finish."""
    waiting = iter(paths)
    pending: dict[Future[Probe], Path] = {}
    # `wait` touches every future it is given, so all files at once would cost their number squared.
    most = _WAITING_PER_CORE * _usable_cores()
    while True:
        for path in islice(waiting, most - len(pending)):
            pending[pool.submit(_probe_with_rate, path, processes)] = path
        if not pending:
            return
        done, _ = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
        for future in done:
            yield pending.pop(future), future
        if stop is not None and stop():
            raise _stopped()


def _probe_with_rate(path: Path, processes: ScanProcesses) -> Probe:
    """What `probe` finds; DecodeError where the frame rate is FFmpeg's guess and not the file's."""
    facts = processes.probe(path)
    if facts.container in RAW_STREAMS:
        problem = f"no frame rate: a bare {facts.container} stream; put it into a container"
        raise DecodeError(problem, where=path)
    if facts.container == "avi" and not _avi_states_a_rate(path):
        raise DecodeError("no frame rate: the header says 0 frames per second", where=path)
    return facts


def _avi_states_a_rate(path: Path) -> bool:
    """True unless both rates of the header are zero: FFmpeg then takes 25.

    `avih` starts with microseconds per frame; scale and rate stand 20 bytes into the `strh` of the
    video stream (Microsoft, AVI RIFF file reference).
    """
    with open(path, "rb") as handle:
        header = handle.read(_HEADER_BYTES)
    main, stream = header.find(b"avih"), header.find(b"strh")
    while stream >= 0 and header[stream + 8 : stream + 12] != b"vids":
        stream = header.find(b"strh", stream + 4)
    if main < 0 or stream < 0 or len(header) < stream + 36:
        return True
    (frame_microseconds,) = struct.unpack_from("<I", header, main + 8)
    scale, rate = struct.unpack_from("<II", header, stream + 28)
    return bool(frame_microseconds or (scale and rate))


def _stopped() -> StopRequested:
    return StopRequested(
        "stopped while scanning the data folder",
        hint="run the same command again: files that were scanned are not opened again",
    )


def _processes_for(paths: Sequence[Path], keys: dict[Path, FileKey | None]) -> int:
    """One per core, or fewer where starting them would take longer than decoding."""
    sizes = [key[1] for path in paths if (key := keys[path]) is not None]
    return max(1, min(_usable_cores(), len(sizes), sum(sizes) // _BYTES_WORTH_A_PROCESS + 1))


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _file_key(path: Path) -> FileKey | None:
    """Path, size and time; None for a file that is not there."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError):
        return None
    return (str(path), facts.st_size, facts.st_mtime_ns)


def _cache_record(key: FileKey, facts: Probe) -> dict[str, Any]:
    return {"version": PROBE_VERSION, "key": key, "probe": asdict(facts)}


def _read_cache(path: Path) -> dict[FileKey, Probe]:
    """Every whole record; a torn or foreign line only means that one file is opened again."""
    known: dict[FileKey, Probe] = {}
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.split("\n"):
        try:
            record = json.loads(line)
            name, size, mtime_ns = record["key"]
            if record["version"] == PROBE_VERSION:
                known[(name, size, mtime_ns)] = Probe(**record["probe"])
        except (ValueError, KeyError, TypeError):
            continue
    return known


def is_truncated(facts: Probe) -> bool:
    """True when frames are missing at the end that whole files of this kind have.

    An AVI with B-frames always lacks one or two frames against its header; edit lists in MP4 hide
    frames at the start, so there the time must be missing too; Matroska has only times, and its
    writers differ in what they call the end.
    """
    lost = 0 if facts.header_frames is None else facts.header_frames - facts.counted_frames
    if facts.missing_seconds is None:
        return lost > 0
    if facts.container == "avi":
        allowed = 2.0 if facts.reordered and not facts.concealed_frames else 0.0
    elif facts.header_frames is not None:
        allowed = 1.0
    else:
        allowed, lost = max(3.0, 0.2 * facts.fps), 1
    return lost > 0 and facts.missing_seconds * facts.fps > allowed + 0.5
