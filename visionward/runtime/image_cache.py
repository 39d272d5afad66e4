"""Encoded images: keys and values for cross-attention, by the hash of their pixels, within a memory budget."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from visionward.runtime.decoder.cross_attention import ImageKV


@dataclass(frozen=True)
class CacheStatistics:
    """The state of an image cache.

    Attributes:
        hits: lookups that found their image.
        misses: lookups that had to encode it.
        entries: images held.
        nbytes: bytes held, on the device.
        capacity: bytes that may be held.
    """

    hits: int
    misses: int
    entries: int
    nbytes: int
    capacity: int


class ImageCache:
    """Keeps the most recently used images. Not thread-safe: it is used on the engine's own thread.

    Args:
        capacity: bytes that may be held; 0 keeps nothing.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[bytes, ImageKV] = OrderedDict()
        self._hits = self._misses = 0

    @property
    def statistics(self) -> CacheStatistics:
        """A snapshot."""
        return CacheStatistics(self._hits, self._misses, len(self._entries), self._nbytes(), self._capacity)

    @contextmanager
    def hold(self, key: bytes, encode: Callable[[], ImageKV]) -> Iterator[ImageKV]:
        """An image's keys and values, encoded if the cache does not have them; valid inside the ``with`` block.

        Args:
            key: identifies the pixels.
            encode: computes the keys and values.
        """
        image = self._entries.pop(key, None)
        if image is None:
            self._misses += 1
            image = encode()
        else:
            self._hits += 1
        try:
            yield image
        finally:
            self._keep(key, image)

    def _keep(self, key: bytes, image: ImageKV) -> None:
        if image.nbytes > self._capacity:
            image.close()
            return
        while self._nbytes() + image.nbytes > self._capacity:
            self._entries.popitem(last=False)[1].close()
        self._entries[key] = image

    def _nbytes(self) -> int:
        return sum(image.nbytes for image in self._entries.values())

    def close(self) -> None:
        """Free every image; calling it again does nothing."""
        while self._entries:
            self._entries.popitem()[1].close()
