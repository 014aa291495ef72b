"""A real browser, headless, spoken to by the W3C's WebDriver protocol (https://www.w3.org/TR/webdriver2/)."""

import json
import re
import subprocess
import urllib.request
from pathlib import Path
from typing import Any, Self

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the standard's name for a reference to one
_PATIENCE_S = 60.0
_ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


class Browser:
    """``with Browser(tmp_path) as browser:``, a Chromium with a fresh profile."""

    def __init__(self, root: Path) -> None:
        self._arguments = [*_ARGUMENTS, f"--user-data-dir={root}/profile"]
        self._base = ""

    def __enter__(self) -> Self:
        self._driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        assert self._driver.stdout is not None
        port = next(found[1] for line in self._driver.stdout if (found := re.search(r"started .* on port (\d+)", line)))
        options = {"args": self._arguments}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self._base = f"http://127.0.0.1:{port}/session"
        self._base += "/" + self._ask("POST", "", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._ask("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.communicate(timeout=_PATIENCE_S)

    def open(self, path: Path, *, width: int, height: int = 900, scheme: str = "light") -> None:
        """Show the file at *path* on a screen of that size, for a reader who likes *scheme*."""
        self._devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self._devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._ask("POST", "/url", {"url": path.as_uri()})

    def click(self, selector: str) -> None:
        """Click the first element of *selector*, as a person does: it must be there to be seen."""
        found = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        self._ask("POST", f"/element/{found[_ELEMENT]}/click", {})

    def run(self, script: str) -> Any:
        """Return what the body of *script* returns."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": []})

    def complaints(self) -> list[str]:
        """Return what the browser had to say about the pages since the last time."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def _devtools(self, command: str, **params: object) -> None:
        self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=_PATIENCE_S) as answer:
            return json.load(answer)["value"]
