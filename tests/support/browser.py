"""A real browser without a window, spoken to in the DevTools protocol through two pipes: no driver, library or port.

https://chromedevtools.github.io/devtools-protocol/ says what each command does.
"""

import base64
import json
import os
import selectors
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["Browser", "find_browser"]

LAUNCH = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""The browser reads commands from file descriptor 3 and answers on 4."""


def find_browser() -> str | None:
    """Return the path of Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


class Browser:
    """One page of a headless browser; ``events`` keeps all it reports, ``seconds`` is how long it may be silent."""

    def __init__(self, program: str, profile: Path, *, seconds: float = 60.0) -> None:
        self.events: list[dict] = []
        self.seconds = seconds
        self._number, self._rest = 0, b""
        self._session: str | None = None
        commands, self._out = os.pipe()
        self._in, answers = os.pipe()
        arguments = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
            "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--mute-audio", f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(commands), str(answers), *arguments], pass_fds=(commands, answers),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        page = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: object) -> dict:
        """Send a command and return its result; what the browser reports meanwhile goes to ``events``."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def open(self, address: str) -> None:
        """Load a page and wait until everything in it is there."""
        seen = len(self.events)
        self("Page.navigate", url=address)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events[seen:]):
            self.events.append(self._next())

    def value(self, expression: str) -> object:
        """Evaluate JavaScript in the page, waiting for a promise, and return its value."""
        result = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def resize(self, width: int, height: int = 900) -> None:
        """Give the page a window of this size."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def media(self, kind: str = "screen", scheme: str = "light") -> None:
        """Show the page as on a screen or in print, and in light or dark colours."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self("Emulation.setEmulatedMedia", media=kind, features=features)

    def picture(self) -> bytes:
        """Return a PNG picture of the window."""
        return base64.b64decode(self("Page.captureScreenshot", format="png")["data"])

    def pdf(self) -> bytes:
        """Return the page as it would be printed."""
        return base64.b64decode(self("Page.printToPDF", printBackground=False)["data"])

    def of(self, method: str) -> list[dict]:
        """Return what the browser reported under a name."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def close(self) -> None:
        """End the browser and wait for it."""
        try:
            os.write(self._out, b'{"id": 0, "method": "Browser.close"}\0')
            self._process.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        finally:
            os.close(self._out)
            os.close(self._in)

    def _next(self) -> dict:
        while b"\0" not in self._rest:
            with selectors.DefaultSelector() as selector:
                selector.register(self._in, selectors.EVENT_READ)
                if not selector.select(self.seconds):
                    raise TimeoutError(f"the browser has said nothing for {self.seconds:g} s")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise EOFError(f"the browser ended with status {self._process.wait()}")
            self._rest += data
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)
