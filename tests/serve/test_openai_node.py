"""The official Node client, unchanged but for base URL and key, against the demonstration guard.

Skipped without Node, or before ``npm install --prefix tests/node``.
"""

import json
import math
import os
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest
from served_demo import HOSTED_NAME, KEY

FOLDER = Path(__file__).parents[1] / "node"
IMAGE = resources.files("visionward") / "demo_guard" / "samples" / "picture_1_2_tiles.jpg"


@pytest.fixture(scope="module")
def node(demo):
    program = shutil.which("node")
    if program is None:
        pytest.skip("Node is not installed")
    if not (FOLDER / "node_modules" / "openai").is_dir():
        pytest.skip("the client is not installed: npm install --prefix tests/node")

    def run(script):
        variables = {"BASE_URL": demo.url, "API_KEY": KEY, "MODEL": HOSTED_NAME, "IMAGE": str(IMAGE)}
        done = subprocess.run(
            [program, FOLDER / script],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_snippet_of_a_hosting_page(node):
    output = node("hosting_page.mjs")
    assert output == "safe\n" or output.startswith("unsafe\n")


def test_everything_else(node):
    found = json.loads(node("client.mjs"))
    assert found["content"] == found["streamed"] == "unsafe\nS6"
    assert math.exp(found["logprob"]) == pytest.approx(found["score"], abs=1e-3)
    assert found["usage"] == found["streamedUsage"]
    assert found["usage"]["completion_tokens"] == 4
    assert found["role"] == "Agent"
    assert found["flagged"] is True
    assert found["types"] == ["text", "image"]
    assert found["models"] == ["demo-guard-text-F16", HOSTED_NAME]
    assert found["errors"] == {
        "wrongKey": {"kind": "AuthenticationError", "status": 401, "code": "invalid_api_key", "param": None},
        "unknownModel": {"kind": "NotFoundError", "status": 404, "code": "model_not_found", "param": "model"},
        "badBody": {"kind": "BadRequestError", "status": 400, "code": "empty_array", "param": "messages"},
        "tooLarge": {"kind": "APIError", "status": 413, "code": "request_too_large", "param": None},
    }
