"""The demonstration guard behind the installed program ``visionward serve``, in a process of its own."""

import json
import re
import signal
import subprocess
import tempfile
import threading
import urllib.request
from pathlib import Path
from typing import Any

from cli_program import COMMAND

KEY = "sk-visionward-test-0123456789"
HOSTED_NAME = "meta-llama/Llama-Guard-3-11B-Vision-Turbo"


class ServedDemo:
    """A server that runs until the context ends.

    Args:
        options: further options of the command.
        key: whether a key is asked for.

    Attributes:
        url: the base URL for clients.
    """

    def __init__(self, *options: object, key: bool = True) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._output = Path(self._folder.name) / "output"
        if key:
            keys = Path(self._folder.name) / "keys"
            keys.write_text(KEY + "\n", encoding="utf-8")
            options = ("--api-key-file", keys, *options)
        command = [*COMMAND, "serve", "--demo", "--port", 0, "--alias", HOSTED_NAME, *options]
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [str(word) for word in command], stdout=output, stderr=subprocess.PIPE, text=True
            )
        self.errors = ""
        self._started = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._started.wait(120), self.errors
        found = re.search(r"http://[^/\s]+/v1", self.errors)
        assert found is not None, self.errors
        self.url = found[0]

    def _read(self) -> None:
        for line in self.process.stderr:
            self.errors += line
            if "/v1" in line:
                self._started.set()
        self._started.set()

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of its standard output."""
        return [json.loads(line) for line in self._output.read_text(encoding="utf-8").splitlines()]

    def stop(self) -> int:
        """End it as a service manager does: its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def __enter__(self) -> "ServedDemo":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        self.process.stderr.close()
        self._folder.cleanup()


def gauge(url: str, name: str) -> float:
    """What a metric of the server at a base URL says."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics") as answer:  # noqa: S310 - our own server
        found = re.search(rf"^{name} (\S+)$", answer.read().decode(), re.MULTILINE)
    assert found is not None, name
    return float(found[1])
