"""Files of keys."""

import pytest

from visionward.serve.api_error import ApiError
from visionward.serve.api_keys import ApiKeyFileError, ApiKeys


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no key"),
        (b"# only a comment\n\n", "no key"),
        (b"short\n", "line 1: a key has 16"),
        (b"# first\nsk-with a space in it\n", "line 2: a key has 16"),
        ("sk-0123456789abcdé".encode(), "printable ASCII"),
        (b"\xff\xfe\x00", "not a text file"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, content, why):
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(ApiKeyFileError, match=why) as caught:
        ApiKeys.from_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "sk-" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(ApiKeyFileError, match="No such file"):
        ApiKeys.from_file(tmp_path / "keys")
    with pytest.raises(ApiKeyFileError):
        ApiKeys.from_file(tmp_path)


def test_a_key_that_is_no_ascii_is_wrong_and_no_failure():
    keys = ApiKeys(("sk-0123456789abcdef",))
    for header in ("Bearer sk-0123456789abcdeé", "Bearer \udcff"):
        with pytest.raises(ApiError, match="wrong"):
            keys.check(header)
    keys.check("Bearer sk-0123456789abcdef ")
