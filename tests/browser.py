"""A page in headless Chromium, over the pipe of its debugging protocol: widths, colours, console, requests, axe.

with Browser() as browser:
    seen = browser.look(path, width=390, dark=True)
"""

import base64
import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

PROGRAM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
SECONDS = 60


def axe_source() -> str:
    """The axe-core script; empty where its package is not installed."""
    spec = importlib.util.find_spec("axe_playwright_python")  # not imported: it would ask for Playwright
    for folder in (spec.submodule_search_locations or []) if spec else []:
        return (Path(folder) / "axe.min.js").read_text(encoding="utf-8")
    return ""


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a page did."""

    console: list[str]
    """Warnings and errors, and exceptions that nobody caught."""
    requests: list[str]
    """Every URL that was fetched, the page's own first."""
    width: float
    """Of all that is on the page, in pixels."""
    violations: list[str]
    """Of axe's rules, each with its first element."""
    checked: int
    """How many of axe's rules passed."""
    seconds: float
    """From the start of the navigation to the end of the load event, as the browser has it."""


class Browser:
    """One process of it, for several pages."""

    def __enter__(self) -> "Browser":
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._read, theirs_out = os.pipe()
        theirs_in, self._write = os.pipe()
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-pipe",
            "--no-first-run",
            "--hide-scrollbars",
        ]
        flags += ["--disable-dev-shm-usage", "--disable-background-networking", f"--user-data-dir={self._profile.name}"]
        # the protocol's descriptors are 3 and 4: sh puts them there, whatever these are here
        script = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, PROGRAM, *flags, "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        os.set_blocking(self._read, False)
        self._buffer, self._number = b"", 0
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", here=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)
        self._profile.cleanup()

    def open(self, path: Path, width: int = 1280, dark: bool = False) -> None:
        """Loads the page at a width, in light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride", here=True, width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", here=True, features=scheme)
        self.events.clear()
        self.call("Page.navigate", here=True, url=path.resolve().as_uri())
        self._wait_for("Page.loadEventFired")

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise's once it is kept."""
        told = self.call("Runtime.evaluate", here=True, expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def look(self, path: Path, width: int = 1280, dark: bool = False, axe: bool = True) -> Seen:
        """Opens the page and tells what it did."""
        self.open(path, width, dark)
        seconds = self.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd / 1000")
        wide = self.evaluate("document.documentElement.scrollWidth")
        violations, checked = self._axe() if axe else ([], 0)
        return Seen(self._console(), self._requests(), wide, violations, checked, seconds)

    def screenshot(self, to: Path, height: int | None = None) -> None:
        """The whole page as a PNG, or its first `height` pixels."""
        size = self.call("Page.getLayoutMetrics", here=True)["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"], "scale": 1}
        told = self.call("Page.captureScreenshot", here=True, clip=clip, captureBeyondViewport=True)
        to.write_bytes(base64.b64decode(told["data"]))

    def _axe(self) -> tuple[list[str], int]:
        self.evaluate(f"{axe_source()};0")
        told = json.loads(
            self.evaluate("axe.run({resultTypes: ['violations', 'passes']}).then(r => JSON.stringify(r))")
        )
        words = [f"{v['id']}: {v['help']}: {v['nodes'][0]['html'][:200]}" for v in told["violations"]]
        return words, len(told["passes"])

    def _console(self) -> list[str]:
        out = []
        for event in self.events:
            told = event["params"]
            if event["method"] == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
                out.append(str([arg.get("value") for arg in told["args"]]))
            elif event["method"] == "Runtime.exceptionThrown":
                out.append(str(told["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
                out.append(told["entry"]["text"])
        return out

    def _requests(self) -> list[str]:
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]

    def call(self, method: str, here: bool = False, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol: `here`, of the open page."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if here else {}
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._write, content) :]
        return self._until(lambda told: told.get("id") == self._number)["result"]

    def _wait_for(self, method: str) -> None:
        if not any(event["method"] == method for event in self.events):
            self._until(lambda told: told.get("method") == method)

    def _until(self, wanted: Any) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            message, end, rest = self._buffer.partition(b"\0")
            if end:
                self._buffer = rest
                told = json.loads(message)
                assert "error" not in told, told
                if "method" in told:
                    self.events.append(told)
                if wanted(told):
                    return told
                continue
            try:
                more = os.read(self._read, 1 << 16)
            except BlockingIOError:
                time.sleep(0.005)
                continue
            assert more, "Chromium has ended"
            self._buffer += more
        raise TimeoutError(f"Chromium has not answered in {SECONDS} s")
