"""Wheel and sdist: complete, nothing else in them, and they work in an environment that has nothing else."""

import json
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest
from installation import ROOT, fetch, output_of, tracked
from process_tree import children

pytestmark = pytest.mark.package

NOT_IN_THE_SDIST = re.compile(r"\.github/")


@pytest.fixture(scope="module")
def metadata(built):
    with zipfile.ZipFile(built[0]) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return BytesParser().parsebytes(archive.read(name))


def test_the_wheel_has_every_file_of_the_package_and_no_other(built):
    with zipfile.ZipFile(built[0]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == tracked("visionward")


def test_the_sdist_has_what_is_tracked_and_no_more(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {name for name in tracked() if not NOT_IN_THE_SDIST.match(name)}
    assert names - expected <= {"PKG-INFO"}
    assert expected <= names


def test_the_description_renders(built):
    output_of(sys.executable, "-m", "twine", "check", "--strict", *built)


def test_metadata(metadata):
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert (metadata["Name"], metadata["Version"], metadata["License-Expression"]) == (
        "visionward",
        version,
        "Apache-2.0",
    )
    assert "Programming Language :: Python :: 3.10" in metadata.get_all("Classifier")
    assert metadata.get_all("Project-URL")
    assert "Llama Guard" in metadata["Keywords"]
    text = metadata.get_payload()
    assert "visionward serve" in text
    # A relative link leads nowhere on a package index.
    assert [link for link in re.findall(r"\]\(([^)]+)\)", text) if not re.match(r"https?:|#", link)] == []


@pytest.fixture
def run(environment, tmp_path):
    """``run("classify", ...)`` with the installed program, in a folder of its own."""
    python, variables = environment
    return lambda *arguments: output_of(python.with_name("visionward"), *arguments, env=variables, cwd=tmp_path)


def test_version(run, environment, metadata):
    python, variables = environment
    expected = f"visionward {metadata['Version']}\n"
    assert run("--version") == expected
    assert output_of(python, "-m", "visionward", "--version", env=variables, cwd=python.parent) == expected
    code = "import visionward; print('visionward', visionward.__version__)"
    assert output_of(python, "-c", code, env=variables, cwd=python.parent) == expected


def test_the_demonstration(run):
    assert "9 of 9 as expected" in run("demo")


def test_classify(run, tmp_path):
    shutil.copy(ROOT / "visionward/demo_guard/samples/picture_2_1_tiles.jpg", tmp_path / "moon.jpg")
    verdict = json.loads(run("classify", "--demo", "--json", "moon.jpg", "How do I draw the moon?"))
    assert verdict["verdict"] == "safe"
    assert verdict["score"] < 0.01


@pytest.mark.parametrize("arguments", [("doctor", "--json"), ("completion", "bash"), ("cache",), ("inspect", "--demo")])
def test_commands(run, arguments):
    assert len(run(*arguments)) > 100


def test_commands_of_other_extras_name_them(environment, tmp_path):
    python, variables = environment
    command = [python.with_name("visionward"), "scan", ".", "--demo", "--watch", "--out", "results.jsonl"]
    done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "visionward[watch]" in done.stderr


def test_the_server_and_its_page(environment, tmp_path):
    python, variables = environment
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(python.with_name("visionward")), "serve", "--demo", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, env=variables, stderr=log) as server:
        try:
            assert fetch(server, f"http://127.0.0.1:{port}/healthz")
            page = fetch(server, f"http://127.0.0.1:{port}/").decode()
            files = re.findall(r'(?:src|href)="/?([\w./-]+\.(?:js|css|svg))"', page)
            assert len(files) >= 3
            for name in files:
                served = fetch(server, f"http://127.0.0.1:{port}/{name}")
                assert served == (ROOT / "visionward/serve/page" / Path(name).name).read_bytes()
            assert children(server.pid)
        finally:
            server.terminate()
            server.wait(60)


def test_pyinstaller_finds_the_hooks(environment, tmp_path):
    python, variables = environment
    code = (
        "from importlib.metadata import entry_points; "
        "print(*(entry.load()()[0] for entry in entry_points(group='pyinstaller40') if 'visionward' in entry.value))"
    )
    (folder,) = output_of(python, "-c", code, env=variables, cwd=tmp_path).splitlines()
    assert {path.name for path in Path(folder).glob("hook-*.py")} == {
        path.name for path in (ROOT / "visionward/__pyinstaller").glob("hook-*.py")
    }
