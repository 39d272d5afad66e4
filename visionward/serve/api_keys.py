"""The keys that clients may use."""

import hashlib
import hmac
from os import PathLike

from visionward.errors import VisionwardError
from visionward.formats.whole_text import read_text
from visionward.serve.api_error import ApiError

MIN_KEY_LENGTH = 16
_MAX_FILE_BYTES = 2**20


class ApiKeyFileError(VisionwardError, ValueError):
    """A file of keys cannot be used."""


class ApiKeys:
    """Keys, of which a request must have one in its ``Authorization`` header.

    Args:
        keys: the keys.
    """

    def __init__(self, keys: tuple[str, ...]) -> None:
        # Digests have one length, so that a comparison does not tell the length of a key.
        self._digests = tuple(_digest(key) for key in keys)

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> "ApiKeys":
        """The keys in a text file, one on each line. Blank lines and lines that begin with ``#`` do not count.

        Raises:
            ApiKeyFileError: the file cannot be read, has no key, or one that is too short or no printable ASCII.
        """
        try:
            lines = read_text(path, _MAX_FILE_BYTES, "utf-8-sig").splitlines()
        except OSError as cause:
            raise ApiKeyFileError(f"{path}: {cause.strerror or cause}") from cause
        except ValueError as cause:
            raise ApiKeyFileError(f"{path}: not a text file of keys") from cause
        keys = []
        for number, line in enumerate(lines, start=1):
            key = line.strip()
            if not key or key.startswith("#"):
                continue
            if len(key) < MIN_KEY_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
                raise ApiKeyFileError(
                    f"{path}: line {number}: a key has {MIN_KEY_LENGTH} or more printable ASCII characters and no space"
                )
            keys.append(key)
        if not keys:
            raise ApiKeyFileError(f"{path}: there is no key in it")
        return cls(tuple(keys))

    def check(self, authorization: str | None) -> None:
        """Check the header of a request, in a time that does not depend on how much of a key is right.

        Args:
            authorization: the value of the header; None if there is none.

        Raises:
            ApiError: it has no key, or a wrong one (status 401).
        """
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ApiError(
                401, "the request has no API key; send it as 'Authorization: Bearer KEY'.", code="missing_api_key"
            )
        digest = _digest(key.strip())
        # Every key is compared: which one matches must not show either.
        if not sum([hmac.compare_digest(digest, known) for known in self._digests]):
            raise ApiError(401, "the API key is wrong.", code="invalid_api_key")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
