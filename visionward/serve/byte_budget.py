"""A bound on the bytes of all requests together."""

from visionward.serve.api_error import ApiError


class ByteBudget:
    """Counts the bytes that requests hold.

    Args:
        max_bytes: that all requests may hold at once.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.held = 0

    def take(self, count: int) -> None:
        """Count bytes that a request is about to hold.

        Raises:
            ApiError: there would be too many (status 429).
        """
        if self.held + count > self._max_bytes:
            raise ApiError(
                429, "the requests under way are too large together; try again later.", code="busy", retry_after_s=1
            )
        self.held += count

    def give_back(self, count: int) -> None:
        """Count bytes that a request holds no more."""
        self.held -= count
