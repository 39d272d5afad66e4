"""Images that were encoded already: their keys and values, by the content of their pixels, within a memory bound."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from visionward.runtime.decoder.cross_attention import ImageMemory
from visionward.runtime.images.preprocess import Tiles


@dataclass(frozen=True)
class CacheStatistics:
    """What a cache holds and what it was good for.

    Attributes:
        hits: images that were found.
        misses: images that had to be encoded.
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
    """Keeps the most recently used images. Not thread-safe: it lives on the engine's own thread.

    Args:
        capacity: bytes that may be held; 0 keeps nothing.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[bytes, ImageMemory] = OrderedDict()
        self._hits = self._misses = 0

    @property
    def statistics(self) -> CacheStatistics:
        """A snapshot."""
        return CacheStatistics(self._hits, self._misses, len(self._entries), self._nbytes(), self._capacity)

    @contextmanager
    def hold(self, tiles: Tiles, encode: Callable[[Tiles], ImageMemory]) -> Iterator[ImageMemory]:
        """An image's memory, encoded if it is not here; valid inside the ``with`` block."""
        key = tiles.digest
        memory = self._entries.pop(key, None)
        if memory is None:
            self._misses += 1
            memory = encode(tiles)
        else:
            self._hits += 1
        try:
            yield memory
        finally:
            self._keep(key, memory)

    def _keep(self, key: bytes, memory: ImageMemory) -> None:
        if memory.nbytes > self._capacity:
            memory.close()
            return
        while self._nbytes() + memory.nbytes > self._capacity:
            self._entries.popitem(last=False)[1].close()
        self._entries[key] = memory

    def _nbytes(self) -> int:
        return sum(memory.nbytes for memory in self._entries.values())

    def close(self) -> None:
        """Free every image; calling it again does nothing."""
        while self._entries:
            self._entries.popitem()[1].close()
