"""Building and running what a user installs."""

import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
# llama-cpp-python is compiled unless pip has its wheel from before.
INSTALL_S = 3600


def output_of(*command, **options):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=INSTALL_S, check=False, **options
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def tracked(*paths):
    return set(output_of("git", "ls-files", "-z", "--", *paths, cwd=ROOT).split("\0")) - {""}


def fetch(server, url):
    end = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - of this test
                return answer.read()
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > end:
                raise
        except OSError:
            assert server.poll() is None
            if time.monotonic() > end:
                raise
        time.sleep(0.2)
