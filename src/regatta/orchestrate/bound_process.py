"""How we start processes: bound to this one's life, each with a folder for its temporary files."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Any, AnyStr

from regatta.core.bound_exec import bound
from regatta.core.errors import EnvironmentFault
from regatta.core.files import disk_error, make_folders
from regatta.orchestrate.task_folders import make_task_folder, remove_task_folder


class BoundProcess(subprocess.Popen[AnyStr]):
    """A process with a folder for temporary files that goes once its end was seen."""

    def __init__(self, argv: list[str], *, env: dict[str, str], **options: Any) -> None:
        self._folder = make_task_folder()
        try:
            super().__init__(argv, env={**env, "TMPDIR": str(self._folder)}, **options)
        except BaseException:
            remove_task_folder(self._folder)
            raise

    def poll(self) -> int | None:
        return self._tidied(super().poll())

    def wait(self, timeout: float | None = None) -> int:
        code = super().wait(timeout)
        self._tidied(code)
        return code

    def _tidied(self, code: int | None) -> int | None:
        if code is not None and self._folder.exists():
            remove_task_folder(self._folder)
        return code


def start_bound(argv: list[str], *, log: Path, env: dict[str, str]) -> BoundProcess[bytes]:
    """Start `argv` in its own session, killed when this process dies; its output goes to `log`.

    Its folder for temporary files is removed once `wait` or `poll` have found its end.
    """
    try:
        make_folders(log.parent)
        with open(log, "ab") as output:
            command, before = bound(argv)
            return BoundProcess(
                command,
                preexec_fn=before,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                start_new_session=True,
            )
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.ENOMEM}:
            raise EnvironmentFault(
                f"no process can be started: {error.strerror}",
                where=argv[0],
                hint="raise the limit on processes (ulimit -u), or lower launch.max_parallel",
            ) from error
        raise disk_error(error, log) from error
