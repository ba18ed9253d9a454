"""The page on paper: report.html printed to a PDF by a Chromium-family browser that is installed.

The browser gets a profile of its own that is thrown away, no network, and its own process group,
which is ended with everything in it however printing ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from regatta.core.bound_exec import COULD_NOT_START, bound
from regatta.core.errors import EnvironmentFault, RegattaError, StopRequested
from regatta.core.files import atomic_path
from regatta.core.signals import StopFlag

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "msedge",
    "microsoft-edge",
)
"""Asked for on the PATH in this order, unless the variable CHROME_PATH names one."""
TIMEOUT_SECONDS = 180.0
CHECK_SECONDS = 0.1
SHOWN_LETTERS = 400

OFFLINE = (
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--proxy-server=127.0.0.1:9",  # the discard port: what still asks gets no answer
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-sync",
    "--no-pings",
)
QUIET = (
    "--disable-breakpad",
    "--disable-crash-reporter",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--mute-audio",
    "--no-default-browser-check",
    "--no-first-run",
    "--password-store=basic",
)


def find_browser() -> str:
    """Path of the browser that prints: CHROME_PATH, or the first of BROWSERS on the PATH.

    Raises:
        EnvironmentFault: there is none, or CHROME_PATH names no program.
    """
    named = os.environ.get("CHROME_PATH", "").strip()
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is not None:
        return found
    raise EnvironmentFault(
        "CHROME_PATH names no program that can be started"
        if named
        else "a PDF needs a browser of the Chromium family, and none is on the PATH",
        where=named or ", ".join(BROWSERS),
        hint="install Chromium (Debian and Ubuntu: apt-get install chromium), Google Chrome or "
        "Microsoft Edge, or set CHROME_PATH to such a program; or print report.html from any "
        "browser",
    )


def print_page(
    page: Path,
    target: Path,
    *,
    browser: str,
    stop: StopFlag | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Path:
    """Print `page` to `target` and return it; folded parts are opened, the print style is used.

    `target` is replaced whole or keeps its former content.

    Raises:
        EnvironmentFault: the browser cannot start, fails, or takes longer than `timeout_seconds`.
        StopRequested: `stop` was set meanwhile.
        DiskError: `target` cannot be written.
    """
    with (
        tempfile.TemporaryDirectory(prefix="regatta-pdf-", ignore_cleanup_errors=True) as scratch,
        atomic_path(target) as temporary,
    ):
        log = Path(scratch) / "browser.log"
        command = print_command(browser, page, temporary, profile=Path(scratch) / "profile")
        code = _run(command, log, stop, timeout_seconds)
        if code != 0 or not _is_pdf(temporary):
            # What binds it to this command started, and could not start it.
            refused = log.read_bytes().startswith(COULD_NOT_START.encode())
            what = "cannot be started" if refused else f"printed no PDF (exit code {code})"
            raise _fault(f"the browser {what}", browser, log)
    return target


def print_command(browser: str, page: Path, target: Path, *, profile: Path) -> list[str]:
    """The browser's command line; the page opens its folded parts when it is printed."""
    command = [browser, "--headless=new", f"--user-data-dir={profile}", *OFFLINE, *QUIET]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        # Chromium refuses to start its sandbox as root; the page runs no code but ours.
        command.append("--no-sandbox")
    command += ["--no-pdf-header-footer", "--generate-pdf-document-outline"]
    return [*command, f"--print-to-pdf={target.absolute()}", page.absolute().as_uri()]


def remove_stale_pdf(report: Path, page: bytes) -> None:
    """Delete report.pdf unless the page that it was printed from is the same as `page`."""
    path = report / "report.html"
    if not path.is_file() or path.read_bytes() != page:
        (report / "report.pdf").unlink(missing_ok=True)


def _run(command: list[str], log: Path, stop: StopFlag | None, timeout_seconds: float) -> int:
    """Exit code of the command, whose process group is gone when this returns or raises."""
    with open(log, "wb") as output:
        try:
            # It must not print on for a command that was killed.
            argv, before = bound(command)
            process = subprocess.Popen(
                argv,
                preexec_fn=before,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            what = f"the browser cannot be started: {error.strerror or error}"
            raise _fault(what, command[0], log) from error
        try:
            return _wait(process, command[0], log, stop, timeout_seconds)
        finally:
            _end_group(process)


def _wait(
    process: subprocess.Popen[bytes],
    browser: str,
    log: Path,
    stop: StopFlag | None,
    timeout_seconds: float,
) -> int:
    deadline = time.monotonic() + timeout_seconds
    while not _has_ended(process):
        if stop is not None and stop.requested:
            error = StopRequested(
                "stopped while printing the PDF; the page is written",
                hint="run again: regatta report --pdf",
            )
            error.exit_code = stop.exit_code
            raise error
        if time.monotonic() > deadline:
            what = f"the browser did not finish printing within {timeout_seconds:g} s"
            raise _fault(what, browser, log)
        time.sleep(CHECK_SECONDS)
    return _end_group(process)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the browser has ended. It is not collected: until then its number, which is that of
    its group, is given to no other process."""
    if not hasattr(os, "waitid"):
        return process.poll() is not None
    options = os.WEXITED | os.WNOWAIT | os.WNOHANG
    return process.returncode is not None or os.waitid(os.P_PID, process.pid, options) is not None


def _end_group(process: subprocess.Popen[bytes]) -> int:
    """Kill what is left of the browser's process group, then collect the browser itself."""
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _is_pdf(path: Path) -> bool:
    """Whether a whole PDF stands there: its first and last marks are present."""
    if not path.is_file():
        return False
    content = path.read_bytes()
    return content.startswith(b"%PDF-") and b"%%EOF" in content[-1024:]


def _fault(what: str, browser: str, log: Path) -> RegattaError:
    said = log.read_text(encoding="utf-8", errors="replace").strip() if log.is_file() else ""
    tail = f": {said[-SHOWN_LETTERS:]}" if said else ""
    return EnvironmentFault(
        f"{what}{tail}",
        where=browser,
        hint="try another browser with CHROME_PATH, or print report.html from any browser",
    )
