"""Headless Chromium, driven through its own protocol over a pipe: real clicks and keys, and pictures of pages."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

BASH = "/bin/bash"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def find() -> str | None:
    """The installed program, if there is one."""
    return next((path for path in map(shutil.which, PROGRAMS) if path), None)


class Chromium:
    """One browser with one page.

    Args:
        program: the browser.
        folder: of its profile.

    Attributes:
        messages: what the page wrote to its console, and what it failed to do.
        requests: the URLs that it asked for.
    """

    def __init__(self, program: str, folder: Path) -> None:
        self.messages: list[str] = []
        self.requests: list[str] = []
        self._numbers = itertools.count(1)
        self._buffer = b""
        # The browser reads commands from descriptor 3 and writes to 4, each ended by a NUL.
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        script = f'exec "$0" "$@" 3<&{commands} 4>&{answers}'
        options = (
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"),
            *("--remote-debugging-pipe", "--no-first-run", "--disable-background-networking", "--mute-audio"),
        )
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the browser
        self._process = subprocess.Popen(
            [BASH, "-c", script, program, *options, f"--user-data-dir={folder}", "about:blank"],
            pass_fds=(commands, answers),
            stdout=self._errors,
            stderr=self._errors,
        )
        os.close(commands)
        os.close(answers)
        os.set_blocking(self._read, False)
        self._session: str | None = None
        pages = self.send("Target.getTargets")["targetInfos"]
        target = next(page["targetId"] for page in pages if page["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for descriptor in (self._read, self._write):
            os.close(descriptor)
        self._errors.close()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the browser's protocol, and its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + 60
        while time.monotonic() < end:
            found = self._receive()
            if found is None:
                continue
            if found.get("id") == number:
                assert "error" not in found, (method, found["error"])
                return found["result"]
            self._note(found)
        raise AssertionError(f"the browser did not answer to {method}")

    def _receive(self) -> dict[str, Any] | None:
        message, mark, rest = self._buffer.partition(b"\0")
        if mark:
            self._buffer = rest
            return json.loads(message)
        try:
            self._buffer += os.read(self._read, 1 << 20)
        except BlockingIOError:
            assert self._process.poll() is None, "the browser has ended"
            time.sleep(0.005)
        return None

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event["method"] == "Runtime.exceptionThrown":
            self.messages.append(json.dumps(parameters["exceptionDetails"]))
        elif event["method"] == "Runtime.consoleAPICalled":
            self.messages.append(json.dumps(parameters["args"]))
        elif event["method"] == "Log.entryAdded":
            self.messages.append(parameters["entry"]["text"])
        elif event["method"] == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])

    def open(self, url: str) -> None:
        """Go to a page and wait until it is there."""
        self.send("Page.navigate", url=url)
        self.until(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str, timeout_s: float = 30.0) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + timeout_s
        while not self.evaluate(expression):
            assert time.monotonic() < end, (expression, self.messages)
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """The text of an element, as it is shown."""
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")

    def place(self, selector: str) -> tuple[float, float]:
        """The middle of an element, in sight."""
        box = self.evaluate(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)}); one.scrollIntoView({{block: "
            "'center'}); const box = one.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height "
            "/ 2]; })()"
        )
        return box[0], box[1]

    def click(self, selector: str) -> None:
        """Press and release the mouse over the middle of an element."""
        x, y = self.place(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.send("Input.insertText", text=text)

    def press(self, key: str, modifiers: int = 0, commands: tuple[str, ...] = ()) -> None:
        """Press and release a key: "Tab", "Enter", " ". Modifiers: 2 is control, 8 is shift."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "v": 86}
        text = {"Enter": "\r", " ": " "}.get(key, "") if not modifiers else ""
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code={" ": "Space", "v": "KeyV"}.get(key, key),
                windowsVirtualKeyCode=codes[key],
                modifiers=modifiers,
                text=text if kind == "keyDown" else "",
                commands=list(commands) if kind == "keyDown" else [],
            )

    def choose_file(self, selector: str, *paths: Path) -> None:
        """Choose files in a file input."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def drop_files(self, selector: str, *paths: Path) -> None:
        """Drag files over an element and drop them."""
        x, y = self.place(selector)
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def screen(self, width: int, dark: bool = False, height: int = 900) -> None:
        """A screen of a width, in pixels, with a light or a dark theme."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(found["data"]))

    def accessible(self) -> list[tuple[str, str]]:
        """Role and name of everything that a screen reader finds, in order."""
        nodes = self.send("Accessibility.getFullAXTree")["nodes"]
        return [
            (node.get("role", {}).get("value", ""), node.get("name", {}).get("value", ""))
            for node in nodes
            if not node.get("ignored")
        ]
