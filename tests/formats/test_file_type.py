"""Error messages name the type of a wrong file."""

import gzip
import io
import zipfile

import pytest
from image_files import encoded, picture
from PIL import features

from visionward.errors import ModelFileError
from visionward.formats.file_type import HEAD_BYTES, file_type
from visionward.formats.gguf_header import GgufHeader


def archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a", "b")
    return buffer.getvalue()


TENSORS = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
MADE = [
    *((encoded(picture(1), name), f"a {name} image") for name in ("JPEG", "PNG", "GIF", "BMP", "TIFF")),
    (encoded(picture(1), "WEBP"), "a WebP image"),
    (gzip.compress(b"hello"), "a gzip archive"),
    (archive(), "a ZIP archive"),
    (len(TENSORS).to_bytes(8, "little") + TENSORS + bytes(8), "a safetensors file"),
    (b"\n<!DOCTYPE html><title>404</title>", "an HTML page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer, not the file itself"),
    (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIF image"),
    (b"\0\0\0\x18ftypisom\0\0\0\0", "a video or audio file"),
    (b"", "empty"),
]
if features.check("avif"):
    MADE.append((encoded(picture(1), "AVIF"), "an AVIF image"))


@pytest.mark.parametrize(("data", "expected"), MADE, ids=[expected for _, expected in MADE])
def test_types(data, expected):
    assert file_type(data[:HEAD_BYTES]).startswith(expected)


@pytest.mark.parametrize("data", [b"hello", b"\0" * 64, b"\x7fELF", b"{}"])
def test_what_is_not_known(data):
    assert file_type(data) is None


def test_a_model_that_is_another_file(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(encoded(picture(1), "JPEG"))
    with pytest.raises(ModelFileError) as caught:
        GgufHeader(path)
    assert str(caught.value) == f"{path} is not a GGUF file but a JPEG image."
    path.write_bytes(b"hello")
    with pytest.raises(ModelFileError, match=r"is not a GGUF file\.$"):
        GgufHeader(path)
