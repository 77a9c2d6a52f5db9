#!/usr/bin/env python
"""Takes a picture of a TensorBoard page: starts TensorBoard and a headless Chromium, waits, saves a PNG, stops both.

Needs Debian's ``chromium`` and ``chromium-driver``; talks to the driver in plain WebDriver HTTP, so that it can wait
until the charts stand still and open the groups that TensorBoard leaves closed.

Example:
    python tools/screenshot_tensorboard.py --logdir lightning_logs --out docs/scalars.png --tags '^pan/'
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGES = ("scalars", "timeseries", "images", "custom_scalars", "text", "histograms")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-3d-apis",  # beyond 16 WebGL charts Chromium drops the first ones; without it TensorBoard draws SVG
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--hide-scrollbars",
)
# Groups and cards hide in nested shadow roots, so every script starts from all elements of all of them.
_ELEMENTS = """
const all = [];
(function walk(root) {
  for (const element of root.querySelectorAll('*')) {
    all.push(element);
    if (element.shadowRoot) walk(element.shadowRoot);
  }
})(document);
const shown = (element) => element.getClientRects().length > 0 && getComputedStyle(element).visibility !== 'hidden';
const text = (element) => (element.innerText || element.textContent || '').trim();
"""
#: Sets the page's boxes (all values on the axes, images in their own size), and opens the legends of custom scalars.
PREPARE = (
    _ELEMENTS
    + """
const boxes = {'Ignore outliers in chart scaling': false, 'Show actual image size': true,
  'Enable step selection and data table': false};
for (const box of all.filter((e) => e.matches('paper-checkbox, mat-checkbox') && shown(e) && text(e) in boxes)) {
  const input = box.querySelector('input');
  const checked = input ? input.checked : box.getAttribute('aria-checked') === 'true';
  if (checked !== boxes[text(box)]) (input || box).click();
}
for (const button of all.filter((e) => e.matches('.toggle-matches-button, [aria-label="Close side pane"]'))) {
  button.click();
}
"""
)
#: Opens every closed group whose name begins as asked; answers how many it opened.
OPEN_GROUPS = (
    _ELEMENTS
    + """
const wanted = arguments[0];
let opened = 0;
for (const group of all.filter((e) => e.matches('button.heading, button.group-toolbar') && shown(e))) {
  const closed = group.matches('.heading')
    ? !group.hasAttribute('open-button')
    : !group.closest('.card-group').querySelector('card-view');
  if (closed && wanted.some((name) => text(group).startsWith(name))) { group.click(); opened += 1; }
}
return opened;
"""
)
#: Answers what the page shows, in numbers that stand still once it has loaded.
STATE = (
    _ELEMENTS
    + """
const drawings = all.filter((e) => e.matches('path, canvas, img, .markdown-body, tf-markdown-view, table') && shown(e));
const busy = all.filter((e) => e.matches('mat-spinner, paper-spinner-lite[active], .loading') && shown(e));
return {size: all.length, drawings: drawings.length, busy: busy.length};
"""
)


class ScreenshotError(RuntimeError):
    """The picture cannot be taken; the message says why."""


def main(argv: list[str] | None = None) -> int:
    """Takes one picture; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logdir", required=True, type=Path, help="folder with event files")
    parser.add_argument("--out", required=True, type=Path, help="PNG to write")
    parser.add_argument("--page", default="scalars", choices=PAGES, help="TensorBoard's page")
    parser.add_argument(
        "--tags", default="", help="regular expression: matching tags stand first (scalars, images, text)"
    )
    parser.add_argument(
        "--open", nargs="*", default=[], metavar="GROUP", help="groups to open, by the start of the name"
    )
    parser.add_argument("--as-it-opens", action="store_true", help="as a person finds it, with no box set")
    parser.add_argument("--width", type=int, default=1480, help="width of the picture in pixels")
    parser.add_argument("--height", type=int, default=1000, help="height of the picture in pixels")
    parser.add_argument("--timeout", type=float, default=120, help="seconds until giving up")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave through the clean-up, as Ctrl-C does
    try:
        window = args.width, args.height
        size = take(
            args.logdir, args.out, args.page, args.tags, args.open, window, args.timeout, prepare=not args.as_it_opens
        )
    except ScreenshotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {size} bytes")
    return 0


def take(
    logdir: Path,
    out: Path,
    page: str,
    tags: str,
    groups: list[str],
    window: tuple[int, int],
    timeout: float,
    prepare: bool = True,
) -> int:
    """Takes one picture.

    Args:
        logdir: Folder with event files.
        out: PNG to write.
        page: One of ``PAGES``.
        tags: Regular expression of the tags to show before all others, empty for none.
        groups: Starts of the names of the groups to open.
        window: Width and height in pixels.
        timeout: Seconds until giving up.
        prepare: Whether to set the page's boxes, and to switch smoothing off.

    Returns:
        Size of the PNG in bytes.

    Raises:
        ScreenshotError: If something is missing, or nothing is drawn in time.
    """
    chromium = _program("chromium", "chromium-browser", "google-chrome")
    chromedriver = _program("chromedriver")
    if not any(logdir.rglob("*tfevents*")):
        raise ScreenshotError(f"no event file below {logdir}")
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as stack:
        # Unwound in reverse: browser and servers have ended before their files are removed.
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tensorboard-shot-")))
        board = stack.enter_context(_tensorboard(logdir, scratch, deadline))
        _load(board, page, deadline)
        browser = stack.enter_context(_browser(chromedriver, chromium, window, scratch, deadline))
        browser.go(f"{board}/?darkMode=false{_address(page, tags) if prepare else f'#{page}'}")
        _settle(browser, deadline)
        if groups and browser.run(OPEN_GROUPS, groups):
            _settle(browser, deadline)
        if prepare:
            browser.run(PREPARE)
            _settle(browser, deadline)
        png = browser.picture()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(png)
    return len(png)


class Browser:
    """A headless browser behind a WebDriver server.

    Args:
        session: Address of the WebDriver session.
    """

    def __init__(self, session: str) -> None:
        self.session = session

    def go(self, address: str) -> None:
        """Opens a page."""
        _request(f"{self.session}/url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """Runs JavaScript in the page and returns what it returns."""
        return _request(f"{self.session}/execute/sync", {"script": script, "args": list(arguments)})["value"]

    def picture(self) -> bytes:
        """What the window shows, as PNG."""
        return base64.b64decode(_request(f"{self.session}/screenshot")["value"])


def _settle(browser: Browser, deadline: float, still: float = 2.5) -> None:
    """Waits until what the page shows has not changed for a while."""
    last, since = None, time.monotonic()
    while time.monotonic() - since < still:
        if time.monotonic() > deadline:
            raise ScreenshotError("the page did not come to rest in time; a larger --timeout may help")
        time.sleep(0.25)
        state = browser.run(STATE)
        if state != last or state["busy"]:
            last, since = state, time.monotonic()


def _load(board: str, page: str, deadline: float, still: float = 2.0) -> None:
    """Waits until TensorBoard finds no more in the event files, and has something for the page."""
    last, since = None, time.monotonic()
    while time.monotonic() - since < still:
        if time.monotonic() > deadline:
            raise ScreenshotError("TensorBoard did not finish reading in time; a larger --timeout may help")
        time.sleep(0.25)
        state = [_request(f"{board}/data/{what}") for what in ("plugins_listing", "plugin/scalars/tags")]
        if state != last:
            last, since = state, time.monotonic()
    if not last[0].get(page, {}).get("enabled"):
        raise ScreenshotError(f"the event files hold nothing for TensorBoard's page {page!r}")


def _address(page: str, tags: str) -> str:
    """What selects a page and its settings: old pages keep them in the hash, "time series" in the query."""
    tag_filter = "&tagFilter=" + urllib.parse.quote(tags, safe="") if tags else ""
    return f"&smoothing=0{tag_filter}#{page}{tag_filter}&_smoothingWeight=0"


@contextlib.contextmanager
def _tensorboard(logdir: Path, scratch: Path, deadline: float) -> Iterator[str]:
    """The address of a TensorBoard that has begun to read the event files."""
    port = _free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--reload_interval", "0", "--samples_per_plugin", "images=100,text=100"]
    with _process(command, scratch / "tensorboard.log") as process:
        address = f"http://127.0.0.1:{port}"
        _wait(lambda: _request(f"{address}/data/runs"), process, "tensorboard", scratch / "tensorboard.log", deadline)
        yield address


@contextlib.contextmanager
def _browser(
    chromedriver: str, chromium: str, window: tuple[int, int], scratch: Path, deadline: float
) -> Iterator[Browser]:
    """A browser with a profile of its own and a window of exactly the size asked for."""
    port = _free_port()
    with _process([chromedriver, f"--port={port}"], scratch / "chromedriver.log") as process:
        driver = f"http://127.0.0.1:{port}"
        ready = lambda: _request(f"{driver}/status")["value"]["ready"]  # noqa: E731
        _wait(ready, process, "chromedriver", scratch / "chromedriver.log", deadline)
        flags = [*FLAGS, f"--user-data-dir={scratch / 'profile'}", f"--window-size={window[0]},{window[1]}"]
        options = {"goog:chromeOptions": {"binary": chromium, "args": flags}}
        answer = _request(f"{driver}/session", {"capabilities": {"alwaysMatch": options}})
        session = f"{driver}/session/{answer['value']['sessionId']}"
        try:
            metrics = {"width": window[0], "height": window[1], "deviceScaleFactor": 1, "mobile": False}
            command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics}
            _request(f"{session}/goog/cdp/execute", command)
            yield Browser(session)
        finally:
            with contextlib.suppress(ScreenshotError):
                _request(session, method="DELETE")


@contextlib.contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen]:
    """A process that is stopped, with all that it started, whatever happens."""
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)


def _wait(answers: Any, process: subprocess.Popen, name: str, log: Path, deadline: float) -> None:
    """Waits until ``answers()`` is true; fails with the end of the log if the process ends first."""
    while True:
        with contextlib.suppress(ScreenshotError):
            if answers():
                return
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            tail = log.read_text(errors="replace").strip()[-800:]
            raise ScreenshotError(f"{name} {'ended' if ended else 'did not answer in time'}:\n{tail}")
        time.sleep(0.2)


def _request(address: str, data: dict | None = None, method: str | None = None) -> Any:
    """Sends JSON, or nothing, to a local server and returns the JSON that it answers."""
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"}, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy knows nothing of this machine
    try:
        with opener.open(request, timeout=60) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise ScreenshotError(f"{address}: {error.read().decode(errors='replace')[:800]}") from error
    except (OSError, json.JSONDecodeError) as error:
        raise ScreenshotError(f"{address}: {error}") from error


def _program(*names: str) -> str:
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        raise ScreenshotError(f"{names[0]} is not installed (Debian and Ubuntu: apt install chromium chromium-driver)")
    return found


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
