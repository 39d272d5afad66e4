"""The Dockerfile: linted, and its commands run in the environment of a wheel, as an image would run them."""

import json
import re
import shutil
import signal
import socket
import subprocess

import pytest
from installation import ROOT, fetch, output_of

from visionward.convert.demo_guard import demo_pair

pytestmark = pytest.mark.package

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def words_of(instruction):
    """The last exec form of an instruction."""
    return json.loads(re.findall(rf"^{instruction}\s[^\[\n]*(\[.*\])$", DOCKERFILE, re.MULTILINE)[-1])


def test_hadolint_has_nothing_to_say():
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed")
    assert output_of("hadolint", ROOT / "Dockerfile") == ""


def test_the_server_of_the_image(environment, tmp_path):
    python, variables = environment
    models = tmp_path / "models"
    models.mkdir()
    for path in demo_pair().text, demo_pair().mmproj:
        shutil.copy(path, models)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    assert "VISIONWARD_MODEL=/models" in DOCKERFILE
    variables = {**variables, "PATH": f"{python.parent}:{variables['PATH']}", "VISIONWARD_MODEL": str(models)}
    command = [*words_of("ENTRYPOINT"), *words_of("CMD"), "--port", port]
    check = [word.replace("8000", port) for word in words_of("HEALTHCHECK")]
    assert check != words_of("HEALTHCHECK")

    def health():
        return subprocess.run(check, env=variables, capture_output=True, timeout=60, check=False).returncode

    assert health() == 1
    with subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            fetch(server, f"http://127.0.0.1:{port}/healthz")
            assert health() == 0
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
        finally:
            server.kill()
    assert health() == 1
