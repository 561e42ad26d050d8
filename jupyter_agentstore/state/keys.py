"""Which primary keys a table has, in memory: 8 bytes a key instead of an index in the file.

What belongs here: the set of keys as 64-bit hashes. Two keys may share a hash (one chance in 10^13 for a table of a
million), so "yes" means "look", and only "no" is certain. Rows and files are no business of it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

_MERGE_AT = 1 << 16
"""Changes that are kept apart from the sorted hashes at least, before they are merged into them."""


class KeyIndex:
    """A set of keys that may claim to hold one that it does not.

    The hashes are Python's own of a string: salted for each process, kept in the string once computed. A sorted
    array holds most of them; what came and went since is in two sets beside it.

    Args:
        keys: what it holds at first, in any number of chunks.
    """

    def __init__(self, keys: Iterable[Sequence[str]] = ()) -> None:
        self._added: set[int] = set()
        self._removed: set[int] = set()
        self._base: numpy.ndarray | None = None
        self._merge_at = _MERGE_AT
        chunks = [hashes(chunk) for chunk in keys]
        if chunks:
            import numpy

            self._set_base(numpy.concatenate(chunks))

    def __contains__(self, key: str) -> bool:
        number = hash(key)
        if number in self._added:
            return True
        if self._base is None or number in self._removed:
            return False
        place = bisect_left(self._view, number)
        return place < len(self._view) and self._view[place] == number

    def among(self, keys: Sequence[str]) -> list[str]:
        """Those of the keys that it holds."""
        added = self._added
        if self._base is None:
            return [key for key in keys if hash(key) in added]
        if len(keys) < 32:
            return [key for key in keys if key in self]
        wanted = hashes(keys)
        places = self._base.searchsorted(wanted)
        places[places == len(self._base)] = 0
        known = (self._base[places] == wanted).tolist()
        removed = self._removed
        return [
            key
            for key, there in zip(keys, known, strict=True)
            if hash(key) in added or (there and hash(key) not in removed)
        ]

    def update(self, come: Collection[str], gone: Collection[str]) -> None:
        """Note which keys have come and which are gone; it does no harm if that was known."""
        if len(come) > _MERGE_AT // 8:
            self._merge(hashes(come))
        else:
            numbers = set(map(hash, come))
            self._removed -= numbers
            self._added |= numbers
        numbers = set(map(hash, gone))
        self._added -= numbers
        self._removed |= numbers
        if len(self._added) + len(self._removed) > self._merge_at:
            self._merge()

    def _merge(self, come: numpy.ndarray | None = None) -> None:
        import numpy

        base = self._base
        if base is not None and self._removed:
            base = base[~numpy.isin(base, _array(self._removed))]
        parts = [part for part in (base, _array(self._added), come) if part is not None]
        self._set_base(numpy.concatenate(parts))
        self._added.clear()
        self._removed.clear()

    def _set_base(self, base: numpy.ndarray) -> None:
        import numpy

        base.sort(kind="stable")
        if len(base):
            base = base[numpy.append(True, base[1:] != base[:-1])]
        self._base = base if len(base) else None
        self._view = base.data
        # In proportion to the array, so that merging costs a key the same however many there are.
        self._merge_at = max(_MERGE_AT, len(base) // 8)


def hashes(keys: Collection[str]) -> numpy.ndarray:
    """The keys' hashes, in their order."""
    import numpy

    return numpy.fromiter(map(hash, keys), numpy.int64, len(keys))


def _array(numbers: set[int]) -> numpy.ndarray:
    import numpy

    return numpy.fromiter(numbers, numpy.int64, len(numbers))
