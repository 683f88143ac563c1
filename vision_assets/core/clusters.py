"""Which pictures of a tenant are copies of one: the clusters of near-duplicates, found over all of its hashes.

Two pictures are in one cluster when a chain of pictures leads from one to the other, each the same picture as the next.
Nothing of it is stored: it follows from the hashes. What is not here: what counts as the same picture
(`neighbours.py`), how candidates are found (`hash_index.py`), and whose result is reused (`reuse.py`).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vision_assets.core.hash_index import Hashes, HashIndex, Positions
from vision_assets.core.neighbours import RADIUS_BITS, Fingerprint, same_picture
from vision_assets.core.tenants import TenantId

CLUSTERS_SHOWN = 50
PICTURES_SHOWN = 24
"""Of one cluster."""

_PAIRS_AT_ONCE = 512
"""Compared in full: each brings two thumbnails of 4 KiB into memory."""
_ROWS_AT_ONCE = 5_000
_NO_PAIRS = np.empty((2, 0), np.int64)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TenantHashes(NamedTuple):
    """The hashes of a tenant that may be matched, in no order.

    Attributes:
        sha256s: 32 bytes a row.
        phashes: In the same order.
    """

    sha256s: NDArray[np.uint8]
    phashes: Hashes


@dataclass(frozen=True, slots=True)
class PictureSize:
    """What of each picture is summed up.

    Attributes:
        pixels: Width times height.
        first_seen_at: Aware UTC.
    """

    sha256: str
    bytes: int
    pixels: int
    first_seen_at: datetime


@dataclass(frozen=True, slots=True)
class ClusterPicture:
    """One picture of a cluster, as it is shown.

    Attributes:
        thumbnail: 64×64 luma.
        link: Of the first post that shows it, where its channel is public.
    """

    sha256: str
    mime: str
    size_bytes: int
    width: int
    height: int
    first_seen_at: datetime
    s3_key: str
    thumbnail: bytes
    link: str | None


@dataclass(frozen=True, slots=True)
class Cluster:
    """Pictures that are copies of one.

    Attributes:
        count: Of pictures.
        bytes: They take together.
        duplicate_bytes: All but the largest picture take.
        first_seen_at: Of the earliest; aware UTC.
        pictures: The largest first, up to `PICTURES_SHOWN`; the first one represents the cluster.
    """

    count: int
    bytes: int
    duplicate_bytes: int
    first_seen_at: datetime
    pictures: tuple[ClusterPicture, ...]


@dataclass(frozen=True, slots=True)
class Duplicates:
    """The clusters of a tenant.

    Attributes:
        hashes: Of the tenant that were compared.
        clusters: Number of clusters.
        pictures: In them.
        bytes: These take together.
        duplicate_bytes: All but the largest of each cluster take.
        is_complete: False: not all pairs were compared, so there may be more clusters, and larger ones.
        largest: Clusters with the most pictures, then with the most bytes to spare.
    """

    hashes: int
    clusters: int
    pictures: int
    bytes: int
    duplicate_bytes: int
    is_complete: bool
    largest: tuple[Cluster, ...]


class ClusterLedger(Protocol):
    """What the registry tells of all hashes of one tenant; nothing of it writes."""

    async def has_more_hashes(self, tenant_id: TenantId, than: int) -> bool:
        """Tell whether there are more hashes than so many, without reading more of them than that."""
        ...

    async def hashes(self, tenant_id: TenantId) -> TenantHashes:
        """Read all hashes that are not flagged; those of another algorithm, too, which have no fingerprint."""
        ...

    async def fingerprints(self, tenant_id: TenantId, sha256s: Sequence[str]) -> Mapping[str, Fingerprint]:
        """Read what is compared of these pictures, of those that are there and have a hash of the present algorithm."""
        ...

    async def sizes(self, tenant_id: TenantId, sha256s: Sequence[str]) -> Sequence[PictureSize]:
        """Read the sizes of these pictures; one that was removed meanwhile is left out."""
        ...

    async def pictures(self, tenant_id: TenantId, sha256s: Sequence[str]) -> Mapping[str, ClusterPicture]:
        """Read these pictures; one that was removed meanwhile is left out."""
        ...


class _Joined:
    """Sets of positions, each with its lowest as the root."""

    def __init__(self, count: int) -> None:
        self._parents = np.arange(count)

    def roots(self, positions: Positions) -> Positions:
        """Tell which set each is in."""
        roots: Positions = self._parents[positions]
        while not np.array_equal(further := self._parents[roots], roots):
            roots = further
        self._parents[positions] = roots
        return roots

    def join(self, left: int, right: int) -> None:
        """Make one set of two."""
        low, high = sorted(self.roots(np.array([left, right])).tolist())
        self._parents[high] = low


async def find_duplicates(
    tenant_id: TenantId,
    ledger: ClusterLedger,
    *,
    shown: int = CLUSTERS_SHOWN,
    most_pairs: int | None = None,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Duplicates:
    """Find all clusters of a tenant.

    Memory: about 100 bytes a hash, and what one batch of pairs takes.

    Args:
        shown: Clusters that are given with their pictures.
        most_pairs: Compared in full, about; None: however many there are. Many different pictures with one hash bring
            as many pairs as their square.
        on_progress: Called with the share of the work that is done, 0 to 1.
    """
    hashes = await ledger.hashes(tenant_id)
    joined = _Joined(len(hashes.phashes))
    blocks = (await asyncio.to_thread(HashIndex, hashes.phashes)).pairs(RADIUS_BITS)
    waiting, compared = _NO_PAIRS, 0
    while (most_pairs is None or compared < most_pairs) and (block := await asyncio.to_thread(next, blocks, None)):
        waiting = np.hstack([waiting, [block.left, block.right]])
        while waiting.shape[1] >= _PAIRS_AT_ONCE and (most_pairs is None or compared < most_pairs):
            compared += await _join_same(tenant_id, ledger, hashes, joined, waiting[:, :_PAIRS_AT_ONCE])
            waiting = waiting[:, _PAIRS_AT_ONCE:]
            waiting = waiting[:, joined.roots(waiting[0]) != joined.roots(waiting[1])]
        on_progress(block.done)
    is_complete = most_pairs is None or compared < most_pairs
    if is_complete:
        await _join_same(tenant_id, ledger, hashes, joined, waiting)
    roots = joined.roots(np.arange(len(hashes.phashes)))
    return await _summed_up(tenant_id, ledger, hashes, roots, shown=shown, is_complete=is_complete)


async def _join_same(
    tenant_id: TenantId, ledger: ClusterLedger, hashes: TenantHashes, joined: _Joined, pairs: Positions
) -> int:
    """Join the pairs that are the same picture, unless they are joined already; tell how many were compared."""
    left, right = pairs[:, joined.roots(pairs[0]) != joined.roots(pairs[1])]
    names = {position: _name(hashes, position) for position in np.union1d(left, right).tolist()}
    found = await ledger.fingerprints(tenant_id, list(names.values()))
    for one, other in zip(left.tolist(), right.tolist(), strict=True):
        own, its = found.get(names[one]), found.get(names[other])
        if own is not None and its is not None and same_picture(own, its):
            joined.join(one, other)
    return len(left)


def _name(hashes: TenantHashes, position: "int | np.int64") -> str:
    name: str = hashes.sha256s[position].tobytes().hex()
    return name


class _Members(NamedTuple):
    """All pictures of all clusters, cluster by cluster, the largest picture of each first.

    Attributes:
        positions: In the tenant's hashes.
        firsts: Where in `positions` each cluster begins.
        counts: Of pictures, by cluster.
        bytes: By picture; `seen_microseconds`, since 1970, too.
    """

    positions: Positions
    firsts: Positions
    counts: Positions
    bytes: Positions
    seen_microseconds: Positions


async def _members(tenant_id: TenantId, ledger: ClusterLedger, hashes: TenantHashes, roots: Positions) -> _Members:
    """Measure the pictures that are in one set with others, as far as they are still there."""
    positions = np.flatnonzero(np.bincount(roots, minlength=1)[roots] > 1)
    figures = np.zeros((3, len(positions)), np.int64)
    for begin in range(0, len(positions), _ROWS_AT_ONCE):
        columns = {_name(hashes, at): begin + row for row, at in enumerate(positions[begin : begin + _ROWS_AT_ONCE])}
        for size in await ledger.sizes(tenant_id, list(columns)):
            seen = (size.first_seen_at - _EPOCH) // timedelta(microseconds=1)
            figures[:, columns[size.sha256]] = size.bytes, size.pixels, seen
    there = figures[0] > 0
    positions, figures = positions[there], figures[:, there]
    some = np.bincount(roots[positions], minlength=1)[roots[positions]] > 1
    positions, figures = positions[some], figures[:, some]
    names = hashes.sha256s[positions].view(">u8").reshape(-1, 4)
    order = np.lexsort((names[:, 0], -figures[0], -figures[1], roots[positions]))
    _, firsts, counts = np.unique(roots[positions[order]], return_index=True, return_counts=True)
    return _Members(positions[order], firsts, counts, figures[0, order], figures[2, order])


async def _summed_up(
    tenant_id: TenantId,
    ledger: ClusterLedger,
    hashes: TenantHashes,
    roots: Positions,
    *,
    shown: int,
    is_complete: bool,
) -> Duplicates:
    """Sum up the sets of more than one picture, and read the largest."""
    found = await _members(tenant_id, ledger, hashes, roots)
    if not len(found.positions):
        return Duplicates(len(roots), 0, 0, 0, 0, is_complete, ())
    bytes_ = np.add.reduceat(found.bytes, found.firsts)
    spare = bytes_ - found.bytes[found.firsts]
    seen = np.minimum.reduceat(found.seen_microseconds, found.firsts)
    names = hashes.sha256s[found.positions[found.firsts]].view(">u8").reshape(-1, 4)
    largest = []
    for number in np.lexsort((names[:, 0], -spare, -found.counts))[:shown].tolist():
        first, count = int(found.firsts[number]), int(found.counts[number])
        members = found.positions[first : first + min(count, PICTURES_SHOWN)]
        sha256s = [_name(hashes, position) for position in members]
        there = await ledger.pictures(tenant_id, sha256s)
        if not there:  # removed in this moment
            continue
        largest.append(
            Cluster(
                count=count,
                bytes=int(bytes_[number]),
                duplicate_bytes=int(spare[number]),
                first_seen_at=_EPOCH + timedelta(microseconds=int(seen[number])),
                pictures=tuple(there[sha256] for sha256 in sha256s if sha256 in there),
            )
        )
    return Duplicates(
        hashes=len(roots),
        clusters=len(found.firsts),
        pictures=len(found.positions),
        bytes=int(bytes_.sum()),
        duplicate_bytes=int(spare.sum()),
        is_complete=is_complete,
        largest=tuple(largest),
    )
