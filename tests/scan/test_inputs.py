"""Inputs: folders, sidecar texts, captions, and tables with their columns."""

import json
import os
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from visionward.errors import DataError, VisionwardError
from visionward.runtime.guard.message import ImagePart, TextPart
from visionward.scan.image_files import caption_of, image_items, images_in, sidecar
from visionward.scan.inputs import Inputs
from visionward.scan.item import MAX_IMAGE_BYTES
from visionward.scan.remote_files import images_at
from visionward.scan.tables import check_columns, read_captions, table_items


def _parts(item):
    """Text and image bytes of an item's first message."""
    parts = item.read().content.conversation.messages[0].parts
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    images = [part.source for part in parts if isinstance(part, ImagePart)]
    return texts, images


def test_folders_are_read_in_order_and_images_are_known_by_name_or_content(tmp_path):
    jpeg = b"\xff\xd8\xff\xe0 rest"
    files = {"b.jpg": b"", "a.PNG": b"x", "c": jpeg, "d.txt": b"text", "e.txt": jpeg, "sub/f.webp": b"", ".g.jpg": b""}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "h.jpg").write_bytes(b"")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = [str(path.relative_to(tmp_path)) for path in images_in(tmp_path)]
    assert found == ["a.PNG", "b.jpg", "c", "e.txt", "sub/f.webp"]
    assert Inputs([tmp_path], lambda _: None).count() == 5


def test_sidecars(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.jpg").write_bytes(name.encode())
    (tmp_path / "a.txt").write_text("What is this?\n")
    (tmp_path / "b.txt").write_bytes(b"\xff")
    one, two, three = Inputs([tmp_path], sidecar)
    assert _parts(one) == (["What is this?"], [b"a"])
    assert "is not UTF-8 text" in str(two.content)
    assert "c.txt cannot be read: No such file" in str(three.content)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_captions(tmp_path, suffix):
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "b.jpg").write_bytes(b"b")
    table = tmp_path / f"captions{suffix}"
    _write(table, [{"file_name": "a.jpg", "text": "A cat, asleep."}])
    columns = {"image": "file_name", "prompt": "text"}
    one, two = Inputs([tmp_path / "a.jpg", tmp_path / "b.jpg"], caption_of(read_captions(table, columns)), columns)
    assert _parts(one) == (["A cat, asleep."], [b"a"])
    assert isinstance(two.content, DataError)
    with pytest.raises(DataError, match="expected an image and a prompt"):
        read_captions(table, {})


def _write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(f'"{value}"' for value in row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_tables(tmp_path, suffix):
    (tmp_path / "a.jpg").write_bytes(b"a")
    table = tmp_path / f"samples{suffix}"
    _write(
        table,
        [
            {"id": "one", "image": "a.jpg", "prompt": "What, now?", "response": "A cat."},
            {"id": "two", "image": "gone.jpg", "prompt": "And this?", "response": "A dog."},
        ],
    )
    one, two = table_items(table, {})
    assert _parts(one) == (["What, now?"], [b"a"])
    assert one.content.conversation.messages[1].parts[0].text == "A cat."
    assert (one.name, one.source, one.row, two.row) == ("one", str(table), 1, 2)
    assert "gone.jpg cannot be read: No such file" in str(two.read().content)
    assert Inputs([table], lambda _: None).count() == 2


def test_images_in_parquet_files(tmp_path):
    table = tmp_path / "samples.parquet"
    (tmp_path / "c.jpg").write_bytes(b"c")
    rows = [{"image": {"bytes": b"a", "path": None}}, {"image": {"bytes": None, "path": "c.jpg"}}, {"image": None}]
    pq.write_table(pa.Table.from_pylist(rows), table)
    one, two, three = table_items(table, {})
    assert (_parts(one), _parts(two)) == (([], [b"a"]), ([], [b"c"]))
    assert "neither a prompt nor an image" in str(three.content)
    pq.write_table(pa.table({"image": [b"a", b"b"]}), table)
    assert [_parts(item)[1] for item in table_items(table, {})] == [[b"a"], [b"b"]]


@pytest.mark.parametrize(
    ("suffix", "text", "expected"),
    [
        (".jsonl", '{"prompt": "a", "Response": "b"}', "unknown key 'Response'"),
        (".jsonl", '{"prompt": "a"', "not JSON"),
        (".jsonl", "[1]", "found list, expected an object"),
        (".jsonl", '{"prompt": 7}', "the text is int"),
        (".csv", "prompt,Response\na,b", "unknown key 'Response'"),
        (".csv", "prompt,response\na", "more or fewer fields"),
        (".csv", "prompt\na,b", "more or fewer fields"),
        (".csv", 'prompt\n""', "neither a prompt nor an image"),
    ],
)
def test_a_row_that_would_not_be_judged_as_it_is_written_is_an_error(tmp_path, suffix, text, expected):
    """A column that nobody reads could hold what is to be judged."""
    table = tmp_path / f"samples{suffix}"
    table.write_text(text + "\n")
    (item,) = table_items(table, {})
    assert isinstance(item.content, VisionwardError)
    assert expected in str(item.content)
    assert item.read() == item


def test_columns_are_chosen(tmp_path):
    table = tmp_path / "samples.jsonl"
    table.write_text('{"caption": "a", "url": "x"}\n{"url": "x"}\n')
    one, two = table_items(table, {"prompt": "caption"})
    assert _parts(one) == (["a"], [])
    assert str(two.content) == "the column 'caption' is missing"
    with pytest.raises(DataError, match="unknown key 'text'"):
        check_columns({"text": "caption"})


@pytest.mark.parametrize(
    ("suffix", "content", "expected"),
    [
        (".jsonl", b'{"prompt": "\xff"}', "not UTF-8 text"),
        (".csv", b"prompt\n\xff", "not UTF-8 text"),
        (".csv", b"prompt\n" + b"a" * 200_000, "not CSV"),
        (".parquet", b"PAR1 nothing", "not a Parquet file"),
    ],
)
def test_a_damaged_table_is_an_error(tmp_path, suffix, content, expected):
    table = tmp_path / f"samples{suffix}"
    table.write_bytes(content)
    with pytest.raises(DataError, match=f"samples{suffix}: {expected}"):
        list(table_items(table, {}))


def test_a_huge_file_is_not_read_into_memory(tmp_path):
    path = tmp_path / "huge.jpg"
    path.touch()
    os.truncate(path, MAX_IMAGE_BYTES + 1)
    (item,) = Inputs([path], lambda _: None)
    assert "larger than the maximum of 512 MiB" in str(item.read().content)


def test_images_in_storage(tmp_path):
    """Through a file system that needs no network; the others have the same interface."""
    (tmp_path / "sub").mkdir()
    for name in ("b.jpg", "sub/a.PNG", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    uri = tmp_path.as_uri()
    items = list(Inputs([], lambda _: "What?", uris=[uri, f"{uri}/b.jpg"]))
    assert [item.name for item in items] == [f"{uri}/b.jpg", f"{uri}/sub/a.PNG", f"{uri}/b.jpg"]
    assert [_parts(item) for item in items][1] == (["What?"], [b"sub/a.PNG"])
    table = tmp_path / "samples.jsonl"
    table.write_text(f'{{"image": "{uri}/b.jpg"}}\n{{"image": "{uri}/gone.jpg"}}\n')
    one, two = table_items(table, {})
    assert _parts(one) == ([], [b"b.jpg"])
    assert str(two.read().content).startswith(f"{uri}/gone.jpg cannot be read: ")
    assert "\n" not in str(two.read().content)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:secret@bucket/a.jpg",
        "s3://secret@bucket/a.jpg",
        "abfs://container:secret@bucket/a.jpg",
        "https://bucket/a.jpg?X-Amz-Signature=secret",
        "abfs://bucket/a.jpg?sig=secret&scheme=https",
        "s3://bucket/a#secret.jpg",
        "s3://bucket[/secret",
    ],
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(tmp_path, uri):
    table = tmp_path / "samples.jsonl"
    table.write_text(json.dumps({"image": uri}) + "\n")
    (item,) = table_items(table, {})
    with pytest.raises(DataError) as caught:
        list(images_at(uri))
    assert str(item.read().content) == str(caught.value)
    assert re.match(
        r"a URI (of \w+://bucket has (credentials in it|a parameter other|the character '#')|is)", str(caught.value)
    )
    assert "secret" not in f"{caught.value}"


def test_an_unknown_kind_of_storage_is_an_error():
    with pytest.raises(DataError, match=r"^nothing://a/b cannot be read: "):
        list(images_at("nothing://a/b"))


@pytest.mark.parametrize(
    "row", [{"image": "a\0b"}, {"image": "\ud800.jpg"}, {"prompt": "\ud800"}, {"id": "\ud800", "prompt": "a"}]
)
def test_odd_characters_are_an_error_of_their_row_alone(tmp_path, options, row):
    table = tmp_path / "samples.jsonl"
    table.write_text(json.dumps(row) + "\n")
    (item,) = table_items(table, {})
    assert len(item.listing_key()) == len(item.place) == 12
    read = item.read()
    assert len(options.item_id(read)) == 32
    assert isinstance(read.content, VisionwardError) or row.get("id")


def test_an_item_is_the_same_in_another_working_directory(tmp_path, pictures, monkeypatch):
    shutil.copy(pictures[0], tmp_path / "a.jpg")
    monkeypatch.chdir(tmp_path)
    (item,) = Inputs([Path("a.jpg")], lambda _: "Why?")
    (remote,) = image_items(["s3://bucket/a.jpg"], lambda _: "Why?")
    sent, key, content = item.absolute(), item.listing_key(), item.read().content.digest()
    monkeypatch.chdir("/")
    assert (sent.name, sent.listing_key(), sent.read().content.digest()) == ("a.jpg", key, content)
    assert list(remote.absolute().image_sources()) == ["s3://bucket/a.jpg"]
