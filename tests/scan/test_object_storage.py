"""Images in an S3 server on this machine, judged on a local Ray of two nodes."""

import contextlib
import json
import platform
import shutil
import socket
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
from cli_program import COMMAND
from scanned import PROMPT

from visionward.errors import ComputeError, DataError
from visionward.scan.cluster import Cluster, scan_on_cluster
from visionward.scan.inputs import Inputs
from visionward.scan.remote_files import _opened, images_at
from visionward.scan.results import Results
from visionward.scan.scan import scan
from visionward.scan.shards import Shards

pytestmark = pytest.mark.ray
SECRET = "a-secret-of-the-test"  # noqa: S105 - nothing's
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "a-name", "AWS_SECRET_ACCESS_KEY": SECRET}


@pytest.fixture(scope="module")
def storage():
    """The variables that lead to the server. What is in it can only be read with credentials."""
    pytest.importorskip("moto.server")
    import boto3  # noqa: PLC0415 - of moto

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    where |= {"AWS_EC2_METADATA_DISABLED": "true"}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    keys = {"aws_access_key_id": "a-name", "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=where["AWS_ENDPOINT_URL"], **keys)
    end = time.monotonic() + 60
    while True:
        with contextlib.suppress(Exception):
            client.create_bucket(Bucket="bucket")
            break
        assert time.monotonic() < end
        time.sleep(0.2)
    yield where, client
    server.kill()
    server.wait()


@pytest.fixture
def photos(storage, pictures, monkeypatch):
    """Five images, one of them with characters that URIs escape. This process has the credentials."""
    where, client = storage
    names = ["a b%20#c?d=\u00e9+.jpg", *(f"{number}.jpg" for number in range(4))]
    for name, path in zip(names, pictures, strict=True):
        client.put_object(Bucket="bucket", Key=f"photos/{name}", Body=path.read_bytes())
    client.put_object(Bucket="bucket", Key="photos/notes.txt", Body=b"no image")
    for name, value in {**where, **CREDENTIALS}.items():
        monkeypatch.setenv(name, value)
    _opened.cache_clear()
    return names


@contextlib.contextmanager
def _nodes(second_has_credentials=True, first_has_credentials=True):
    """A cluster of two nodes, whose credentials come from the environment."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster as LocalCluster  # noqa: PLC0415

    started = None
    for has in (first_has_credentials, second_has_credentials):
        with pytest.MonkeyPatch.context() as patch:
            for name in CREDENTIALS if not has else ():
                patch.delenv(name)
            if started is None:
                started = LocalCluster(initialize_head=True, head_node_args={"num_cpus": 1})
            else:
                started.add_node(num_cpus=1)
    try:
        yield started.address
    finally:
        started.shutdown()


def _rows(folder):
    return [row for path in Shards(folder).paths() for row in pq.read_table(path).to_pylist()]


def test_images_in_a_bucket_are_judged_and_credentials_are_nowhere(tmp_path, photos, pictures, options):
    table = tmp_path / "samples.jsonl"
    uris = ["s3://bucket/photos/gone.jpg", f"s3://a-name:{SECRET}@bucket/photos/0.jpg"]
    uris.append(f"https://bucket/photos/0.jpg?X-Amz-Signature={SECRET}")
    table.write_text("".join(json.dumps({"image": uri, "prompt": "Why?"}) + "\n" for uri in uris))
    out = tmp_path / "shards"
    command = [*COMMAND, "scan", "s3://bucket/photos", str(table), "--prompt", PROMPT, "--out", str(out)]
    text, mmproj = map(str, options.pair)
    command += ["--model", text, "--mmproj", mmproj, "--vision-backend", "ggml", "--threads", "1"]
    with _nodes() as address:
        done = subprocess.run([*command, "--ray", address], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "8 samples: " in done.stdout
    rows = _rows(out)
    judged = {row["name"]: row["score"] for row in rows if row["source"] is None}
    escaped = "a%20b%2520%23c%3Fd%3D%C3%A9%2B.jpg"
    local = tmp_path / "local"
    local.mkdir()
    for name, path in zip((escaped, *photos[1:]), pictures, strict=True):
        shutil.copy(path, local / name)
    results = Results(tmp_path / "local.jsonl", options.key)
    scan(Inputs([local], lambda _: PROMPT), results, options, 1)
    results.close()
    expected = [json.loads(line) for line in (tmp_path / "local.jsonl").read_text().splitlines()]
    assert judged == {f"s3://bucket/photos/{row['name'].rpartition('/')[2]}": row["score"] for row in expected}
    errors = {row["row"]: row["error"] for row in rows if row["source"]}
    node = f"node {platform.node()}: "
    assert errors[1].startswith(f"{node}s3://bucket/photos/gone.jpg cannot be read: ")
    assert errors[2] == f"{node}a URI of s3://bucket has credentials in it: use the environment"
    assert errors[3].startswith(f"{node}a URI of https://bucket has a parameter other than ")
    for text in (done.stdout, done.stderr, *(path.read_bytes().decode("latin-1") for path in out.iterdir())):
        assert SECRET not in text


def _scan(address, folder, options):
    inputs = Inputs([], lambda _: PROMPT, uris=["s3://bucket/photos"])
    scan_on_cluster(inputs, folder, options, Cluster(address, 1, threads=1))


@pytest.mark.usefixtures("photos")
def test_a_node_without_credentials_is_named(tmp_path, options):
    with _nodes(second_has_credentials=False) as address, pytest.raises(ComputeError) as caught:
        _scan(address, tmp_path / "shards", options)
    message = str(caught.value)
    assert message.startswith(f"node {platform.node()}: s3://bucket/photos/")
    assert "ACCESS_DENIED" in message
    assert message.endswith("The driver or another node can read it")
    assert SECRET not in message
    assert _rows(tmp_path / "shards") == []


@pytest.mark.usefixtures("photos")
def test_without_credentials_anywhere_nothing_gets_an_error_of_its_own(tmp_path, options, monkeypatch):
    """Reading the list fails; and if a table has the URIs, so do the images on all nodes."""
    table = tmp_path / "samples.jsonl"
    table.write_text(json.dumps({"image": "s3://bucket/photos/0.jpg", "prompt": "Why?"}) + "\n")
    with _nodes(second_has_credentials=False, first_has_credentials=False) as address:
        for name in CREDENTIALS:
            monkeypatch.delenv(name)
        _opened.cache_clear()
        expected = rf"^node {platform.node()}: none of the first 1 images can be read: s3://bucket/.* ACCESS_DENIED"
        with pytest.raises(ComputeError, match=expected):
            scan_on_cluster(Inputs([table], lambda _: None), tmp_path / "a", options, Cluster(address, 1, threads=1))
    assert _rows(tmp_path / "a") == []


@pytest.mark.usefixtures("photos")
def test_a_server_that_does_not_answer_is_an_error(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        _opened.cache_clear()
        with pytest.raises(DataError, match=r"^s3://bucket/photos cannot be read: .*NETWORK_CONNECTION"):
            list(images_at("s3://bucket/photos"))
