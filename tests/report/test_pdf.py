"""The page as PDF: printed by a real browser, whole or not at all, with nothing left running."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regatta.cli.main import app
from regatta.core.errors import DiskError, EnvironmentFault, StopRequested
from regatta.core.signals import StopFlag
from regatta.records.run_folder import StudyFolder
from regatta.report import pdf
from regatta.report.pdf import find_browser, print_command, print_page, remove_stale_pdf
from tests.report.conftest import small_study

CHROMIUM = next(filter(None, map(shutil.which, pdf.BROWSERS)), None)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"
)
needs_poppler = pytest.mark.skipif(
    shutil.which("pdftotext") is None, reason="pdftotext is not installed: poppler-utils"
)
PAGE = "<!doctype html><title>t</title><p>printed words</p>"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "a page #1.html"
    path.write_text(PAGE, encoding="utf-8")
    return path


def script(folder: Path, body: str) -> str:
    """A program that stands in for a browser, with the process that it starts beside it."""
    path = folder / "browser"
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def processes_naming(text: str) -> list[int]:
    """Ids of running processes whose command line holds `text`; a zombie has no command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if text.encode() in line and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def zombie_children() -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if fields[0] == "Z" and int(fields[1]) == os.getpid():
            found.append(int(entry.parent.name))
    return found


@pytest.fixture(autouse=True)
def _nothing_stays(tmp_path: Path) -> Iterator[None]:
    yield
    deadline = time.monotonic() + 5
    # Helpers of a killed browser take a moment to notice; what is still there then has stayed.
    while processes_naming(str(tmp_path)) and time.monotonic() < deadline:
        os.sched_yield()
    assert processes_naming(str(tmp_path)) == []
    assert zombie_children() == []
    assert [path for path in tmp_path.rglob("*") if path.name.endswith(".partial")] == []


@needs_browser
@needs_poppler
def test_the_whole_page_is_printed_with_its_folded_parts_open(
    grid_report: StudyFolder, tmp_path: Path
) -> None:
    target = print_page(
        grid_report.report / "report.html", tmp_path / "report.pdf", browser=str(CHROMIUM)
    )
    text = subprocess.run(
        ["pdftotext", "-layout", str(target), "-"], capture_output=True, text=True, check=True
    ).stdout
    pages = text.split("\f")[:-1]
    assert len(pages) > 5
    assert "Every entry under every condition" in text  # stands in a folded part
    assert "c10s16" in text
    assert "Find a class" not in text  # controls are not printed
    assert "One class at a time" not in text
    cells = [p for p in pages if sum("videomae" in line for line in p.splitlines()) > 15]
    assert all("accuracy, %" in page or "precision" in page for page in cells)


@needs_browser
@needs_poppler
def test_paper_is_white_to_its_edges_also_for_readers_of_dark_pages(
    grid_report: StudyFolder, tmp_path: Path
) -> None:
    target = tmp_path / "dark.pdf"
    browser = script(tmp_path, f'exec {CHROMIUM} --force-dark-mode "$@"')
    print_page(grid_report.report / "report.html", target, browser=browser)
    subprocess.run(["pdftoppm", "-r", "20", "-gray", str(target), str(tmp_path / "p")], check=True)
    from PIL import Image

    sheets = sorted(tmp_path.glob("p-*.pgm"))
    assert len(sheets) > 5
    for sheet in sheets:
        with Image.open(sheet) as picture:
            wide, high = picture.size
            assert abs(high / wide - 297 / 210) < 0.02
            grey = picture.convert("L")
            edges = [grey.getpixel((x, y)) for x in (1, wide - 2) for y in range(high)]
            assert set(edges) == {255}
            histogram = grey.histogram()
            assert sum(histogram[230:]) > 0.5 * wide * high


@needs_browser
def test_a_former_pdf_is_replaced_by_a_whole_one(page: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.pdf"
    target.write_bytes(b"former")
    assert print_page(page, target, browser=str(CHROMIUM)) == target
    content = target.read_bytes()
    assert content.startswith(b"%PDF-")
    assert b"%%EOF" in content[-1024:]


@needs_browser
def test_a_printed_page_asks_nobody_for_anything(tmp_path: Path) -> None:
    """A server counts what is asked of it; the page refers to it in every way that it can."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    asked: list[str] = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    Thread(target=server.serve_forever, daemon=True).start()
    page = tmp_path / "curious.html"
    homes = [f"http://{name}:{server.server_port}" for name in ("localhost", "127.0.0.1")]
    page.write_text(
        "".join(
            f"<img src='{home}/img'><link rel=stylesheet href='{home}/css'>"
            f"<iframe src='{home}/frame'></iframe><script>fetch('{home}/fetch')</script>"
            for home in homes
        ),
        encoding="utf-8",
    )
    try:
        print_page(page, tmp_path / "curious.pdf", browser=str(CHROMIUM))
    finally:
        server.shutdown()
        server.server_close()
    assert asked == []


def test_a_browser_that_hangs_is_ended_with_all_that_it_started(page: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.pdf"
    target.write_bytes(b"former")
    browser = script(tmp_path, f'sh -c "sleep 600; : {tmp_path}" & sleep 600')
    started = time.monotonic()
    with pytest.raises(EnvironmentFault, match=r"did not finish printing within 0\.3 s"):
        print_page(page, target, browser=browser, timeout_seconds=0.3)
    assert time.monotonic() - started < 10
    assert target.read_bytes() == b"former"


def test_a_browser_that_fails_is_quoted(page: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.pdf"
    target.write_bytes(b"former")
    browser = script(tmp_path, "echo cannot open display >&2; exit 7")
    with pytest.raises(EnvironmentFault, match=r"exit code 7\): cannot open display") as caught:
        print_page(page, target, browser=browser)
    assert caught.value.exit_code == 3
    assert "CHROME_PATH" in str(caught.value)
    assert target.read_bytes() == b"former"


@pytest.mark.parametrize("written", ["nothing", "%PDF-1.4 cut in the mid"])
def test_half_a_pdf_never_takes_the_place_of_a_whole_one(
    page: Path, tmp_path: Path, written: str
) -> None:
    target = tmp_path / "report.pdf"
    target.write_bytes(b"former")
    browser = script(
        tmp_path,
        f'for a in "$@"; do case "$a" in --print-to-pdf=*) printf "{written}" > '
        '"${a#--print-to-pdf=}";; esac; done',
    )
    with pytest.raises(EnvironmentFault, match="printed no PDF"):
        print_page(page, target, browser=browser)
    assert target.read_bytes() == b"former"


def test_a_stop_ends_the_browser_and_says_so(page: Path, tmp_path: Path) -> None:
    stop = StopFlag()
    stop.request("SIGTERM")
    with pytest.raises(StopRequested) as caught:
        print_page(page, tmp_path / "a.pdf", browser=script(tmp_path, "sleep 600"), stop=stop)
    assert caught.value.exit_code == 143


def test_ctrl_c_while_printing_ends_the_command_and_the_browser(tmp_path: Path) -> None:
    folder = small_study(tmp_path)
    mark = tmp_path / "printing"
    browser = script(tmp_path, f"touch {mark}; sleep 600")
    command = [sys.executable, "-m", "regatta.cli.main", "report", str(folder.path), "--pdf"]
    process = subprocess.Popen(
        command, env={**os.environ, "CHROME_PATH": browser}, stderr=subprocess.PIPE, text=True
    )
    while not mark.exists() and process.poll() is None:
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    assert "stopped while printing" in process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert (folder.report / "report.html").is_file()
    assert not (folder.report / "report.pdf").exists()


def test_a_command_that_is_killed_takes_its_browser_along(tmp_path: Path) -> None:
    folder = small_study(tmp_path)
    mark = tmp_path / "printing"
    browser = script(tmp_path, f"touch {mark}; exec sleep 600.{os.getpid()}")
    command = [sys.executable, "-m", "regatta.cli.main", "report", str(folder.path), "--pdf"]
    process = subprocess.Popen(command, env={**os.environ, "CHROME_PATH": browser})
    while not mark.exists() and process.poll() is None:
        os.sched_yield()
    process.kill()
    process.wait()
    deadline = time.monotonic() + 15
    while processes_naming(f"sleep\0600.{os.getpid()}"):
        assert time.monotonic() < deadline
        os.sched_yield()


def test_without_a_browser_the_command_says_what_to_install_and_draws_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_study(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROME_PATH", raising=False)
    with pytest.raises(EnvironmentFault, match="none is on the PATH") as caught:
        CliRunner().invoke(app, ["report", str(folder.path), "--pdf"], catch_exceptions=False)
    assert caught.value.exit_code == 3
    assert "apt-get install chromium" in str(caught.value)
    assert not folder.report.exists()


def test_chrome_path_comes_first_and_must_be_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = script(tmp_path, "exit 0")
    monkeypatch.setenv("CHROME_PATH", mine)
    assert find_browser() == mine
    monkeypatch.setenv("CHROME_PATH", str(tmp_path / "missing"))
    with pytest.raises(EnvironmentFault, match="CHROME_PATH names no program"):
        find_browser()


def test_a_program_that_cannot_be_started_is_a_fault_of_the_machine(
    page: Path, tmp_path: Path
) -> None:
    browser = tmp_path / "broken"
    browser.write_text("#!/no/such/interpreter\n", encoding="utf-8")
    browser.chmod(0o755)
    with pytest.raises(EnvironmentFault, match="cannot be started"):
        print_page(page, tmp_path / "a.pdf", browser=str(browser))


def test_a_folder_that_cannot_be_written_is_named(page: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way", encoding="utf-8")
    with pytest.raises(DiskError):
        print_page(page, blocked / "a.pdf", browser=script(tmp_path, "exit 0"))


def test_names_with_spaces_and_signs_reach_the_browser_whole(tmp_path: Path) -> None:
    command = print_command(
        "b", tmp_path / "a b#c?.html", tmp_path / "d e.pdf", profile=tmp_path / "p"
    )
    assert command[-1].endswith("/a%20b%23c%3F.html")
    assert command[-2] == f"--print-to-pdf={tmp_path / 'd e.pdf'}"


def test_a_pdf_of_another_page_does_not_stay_beside_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_bytes(b"page")
    (tmp_path / "report.pdf").write_bytes(b"pdf")
    remove_stale_pdf(tmp_path, b"page")
    assert (tmp_path / "report.pdf").is_file()
    remove_stale_pdf(tmp_path, b"another page")
    assert not (tmp_path / "report.pdf").exists()
    remove_stale_pdf(tmp_path, b"another page")


def test_the_command_names_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = script(
        tmp_path,
        'for a in "$@"; do case "$a" in --print-to-pdf=*) printf "%%PDF-1.4 %%%%EOF" > '
        '"${a#--print-to-pdf=}";; esac; done',
    )
    monkeypatch.setenv("CHROME_PATH", browser)
    folder = small_study(tmp_path)
    result = CliRunner().invoke(app, ["report", str(folder.path), "--pdf", "--json"])
    assert json.loads(result.output) == {
        "page": str(folder.report / "report.html"),
        "pdf": str(folder.report / "report.pdf"),
    }
    assert (folder.report / "report.pdf").read_bytes() == b"%PDF-1.4 %%EOF"
