"""The soak: thousands of requests of all kinds. ``VISIONWARD_SOAK_REQUESTS`` says how many; 10,000 unless it is set."""

import json
import os
import random
import re
import sys
import threading
import time
import urllib.request
from pathlib import Path
from statistics import quantiles

import pytest
from process_tree import children
from served_demo import HOSTED_NAME, KEY, ServedDemo, gauge
from soak_requests import SoakClient, Tally

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(sys.platform != "linux", reason="memory and descriptors are read from /proc"),
]

REQUESTS = int(os.environ.get("VISIONWARD_SOAK_REQUESTS", "10000"))
CLIENTS = 6
# What is not warm yet: caches, allocators' arenas, the first images.
WARM_SHARE = 0.25
# Of the memory of the warm state: allocators do not give back every page at once.
MEMORY_SLACK = 1.05


def resident_mb(pid):
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    anonymous = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(anonymous[1]) / 1024


def descriptors(pid):
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def settle(url):
    """Wait until the requests of clients that went away have ended."""
    end = time.monotonic() + 60
    names = ("visionward_requests_running", "visionward_requests_waiting", "visionward_held_bytes")
    while any(gauge(url, name) for name in names):
        assert time.monotonic() < end, {name: gauge(url, name) for name in names}
        time.sleep(0.1)


def test_soak():
    with ServedDemo("--max-body", "1MiB", "--max-waiting", 64, "--threads", 1) as served:
        tally, counter, memory = Tally(), iter(range(REQUESTS)), []
        lock = threading.Lock()

        def work(seed):
            client = SoakClient(served.url, random.Random(seed), tally)
            while True:
                with lock:
                    number = next(counter, None)
                if number is None:
                    return
                client.one()
                if number % max(1, REQUESTS // 40) == 0:
                    with lock:
                        memory.append(
                            (number, [resident_mb(pid) for pid in (served.process.pid, *children(served.process.pid))])
                        )

        started = time.monotonic()
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - started
        settle(served.url)
        show = sys.stdout.write
        show(f"\n{REQUESTS} requests, {CLIENTS} clients, {seconds:.0f} s: {json.dumps(tally.kinds)}\n")
        for images, times in sorted(tally.times_ms.items()):
            cuts = quantiles(times, n=100)
            show(f"{images} images: p50 {cuts[49]:.1f} ms, p95 {cuts[94]:.1f} ms, p99 {cuts[98]:.1f} ms\n")
        for number, megabytes in sorted(memory):
            show(f"{number:6} {' '.join(f'{one:7.1f} MB' for one in megabytes)}\n")

        assert tally.wrong == []
        assert served.process.poll() is None
        assert [line for line in served.log if line["event"] == "failure"] == []
        assert all(line.get("status") != 500 for line in served.log)
        requests = [line for line in served.log if line["event"] == "request" and line["route"].startswith("/v1/")]
        # Those that vanish before their head is complete are no requests.
        assert REQUESTS * 0.95 <= len(requests) <= REQUESTS
        assert all(line["code"] != "queue_full" for line in requests if "code" in line)
        warm = [one for number, one in memory if number >= REQUESTS * WARM_SHARE]
        half = len(warm) // 2
        for process in range(2):
            before = max(one[process] for one in warm[:half])
            after = max(one[process] for one in warm[half:])
            assert after <= before * MEMORY_SLACK, (process, before, after)
        assert descriptors(served.process.pid) < 60
        assert len(list(Path(f"/proc/{served.process.pid}/task").iterdir())) < 60
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"{served.url}/chat/completions",
            json.dumps({"model": HOSTED_NAME, "messages": [{"role": "user", "content": "hello"}]}).encode(),
            {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            assert answer.status == 200
        assert served.stop() == 0
