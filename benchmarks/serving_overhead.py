r"""What the server adds to a classification: the same conversations in `Guard` and over HTTP, taking turns.

    python -m benchmarks.serving_overhead --rounds 300

The demonstration guard runs twice, with one thread each: here, and behind `visionward serve` in a process of its own.
In every round each conversation is judged once by either. Printed are the milliseconds of both, and the overhead: what
a client waited beyond the time that the guard behind the server says that it took.
"""

import argparse
import base64
import http.client
import json
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from visionward import Guard

_SAMPLES = resources.files("visionward") / "demo_guard" / "samples"
_TEXT = "Take me to the ring of the moon and the leaf."


@dataclass
class Case:
    """A conversation, and how long it took, in milliseconds.

    Attributes:
        name: for the table.
        content: of the user's message, in OpenAI's form.
        direct: in `Guard`.
        served: over HTTP.
        overhead: of the latter, beyond the guard's own time.
    """

    name: str
    content: list[dict[str, Any]]
    direct: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)
    overhead: list[float] = field(default_factory=list)


class Server:
    """`visionward serve` in a process of its own, and one connection to it."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "visionward.cli.main", "serve", "--demo", "--port", "0", "--threads", "1"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        line = self._process.stderr.readline() if self._process.stderr is not None else ""
        found = re.search(r"^(\S+) is served at http://([^/]+)/v1", line)
        if found is None:
            raise SystemExit(f"the server did not start: {line}")
        self._model = found[1]
        self._connection = http.client.HTTPConnection(found[2])

    def judge(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        """The extra field of the answer."""
        body = json.dumps({"model": self._model, "messages": [{"role": "user", "content": content}]})
        self._connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        found = json.loads(self._connection.getresponse().read())
        return found["visionward"]

    def close(self) -> None:
        """End it."""
        self._connection.close()
        self._process.terminate()
        self._process.wait()


def measure(cases: list[Case], rounds: int) -> None:
    """Fill in the times of the cases."""
    server = Server()
    with Guard.demo(threads=1) as guard:
        for number in range(-3, rounds):  # the first ones warm up
            for case in cases:
                started = time.perf_counter()
                guard.classify([{"role": "user", "content": case.content}], allow_files=False)
                direct = time.perf_counter()
                found = server.judge(case.content)
                ended = time.perf_counter()
                if number >= 0:
                    served = (ended - direct) * 1000
                    case.direct.append((direct - started) * 1000)
                    case.served.append(served)
                    case.overhead.append(served - found["timings_ms"]["total"])
    server.close()


def _percentiles(values: list[float]) -> str:
    cuts = statistics.quantiles(values, n=100)
    return "  ".join(f"{cuts[number - 1]:8.2f}" for number in (50, 95, 99))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    rounds = parser.parse_args().rounds
    cases = [Case("text alone", [{"type": "text", "text": _TEXT}])]
    for name in ("picture_2_1_tiles.jpg", "picture_4_4_tiles.jpg"):
        data = (_SAMPLES / name).read_bytes()
        url = "data:image/jpeg;base64," + base64.b64encode(data).decode()
        label = f"image of {name[10]} tiles, {len(data) / 1000:.0f} kB, known"
        cases.append(Case(label, [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": _TEXT}]))
    measure(cases, rounds)
    print(f"{rounds} rounds, milliseconds{'':16}p50       p95       p99")
    for case in cases:
        print(case.name)
        for label in ("direct", "served", "overhead"):
            print(f"  {label:32}{_percentiles(getattr(case, label))}")


if __name__ == "__main__":
    main()
