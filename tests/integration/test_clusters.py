"""Clusters of near-duplicates on the real Postgres: exactly the copies, of one tenant alone."""

import random
from dataclasses import replace

from tests.hashed import hashed, sha256_of, write_hashes
from tests.world import World
from vision_assets.clients.postgres.clusters import PostgresClusters
from vision_assets.core.clusters import PICTURES_SHOWN, Duplicates, find_duplicates
from vision_assets.core.phash import PerceptualHash
from vision_assets.core.tenants import TenantId

FAR = 0x0F0F_3C3C_5555_9999
PIXELS = (640, 480)


async def duplicates(world: World, tenant_id: TenantId, *, shown: int = 50) -> Duplicates:
    """The clusters of a tenant."""
    return await find_duplicates(tenant_id, PostgresClusters(world.database), shown=shown)


def names(found: Duplicates) -> list[set[str]]:
    """Which pictures the clusters have, cluster by cluster."""
    return [{picture.sha256 for picture in cluster.pictures} for cluster in found.largest]


def chain(origin: int, length: int, *, step: int = 3) -> list[tuple[str, PerceptualHash]]:
    """Pictures of which each differs from the one before in three bits more, so that the ends are far apart."""
    return [(f"{origin:x} {at}", hashed(origin ^ ((1 << step * at) - 1))) for at in range(length)]


async def test_chains_are_clusters_and_strangers_are_none(world: World) -> None:
    """A chain of copies is one cluster, however far its ends are apart; pictures that only look alike are in none."""
    tenant = (await world.tenant("Chains")).id
    long, short = chain(FAR, 8), chain(~FAR & (2**64 - 1), 3)
    striped = replace(hashed(FAR), thumbnail=bytes([0, 200] * 2048))
    other_bits = replace(hashed(FAR), phash256=b"\xff" * 32)
    flagged = [(f"flagged {number}", hashed(FAR, flags=("degenerate",))) for number in range(2)]
    strangers = [("striped", striped), ("other bits", other_bits), *flagged, ("alone", hashed(0x1234_5678_9ABC_DEF0))]
    pictures = long + short + strangers
    random.Random(5).shuffle(pictures)
    await write_hashes(world.database, tenant, pictures, size=PIXELS)
    found = await duplicates(world, tenant)
    assert names(found) == [{sha256_of(name) for name, _ in members} for members in (long, short)]
    assert (found.hashes, found.clusters, found.pictures) == (len(pictures) - 2, 2, 11)
    assert (found.bytes, found.duplicate_bytes) == (11_000, 9_000)
    assert await duplicates(world, tenant) == found


async def test_the_largest_picture_represents_its_cluster(world: World) -> None:
    """The picture with most pixels comes first; what the others take is to spare; the earliest says since when."""
    tenant = (await world.tenant("Sizes")).id
    await write_hashes(world.database, tenant, chain(FAR, 4), size=PIXELS)
    largest, earliest = sha256_of(f"{FAR:x} 2"), sha256_of(f"{FAR:x} 1")
    change = "UPDATE media_objects SET {} WHERE sha256 = $1"
    await world.database.pool.execute(change.format("width = 1280, height = 960, bytes = 5000"), largest)
    await world.database.pool.execute(change.format("first_seen_at = '2026-01-02 03:04:05+00'"), earliest)
    (cluster,) = (await duplicates(world, tenant)).largest
    assert cluster.pictures[0].sha256 == largest
    assert (cluster.bytes, cluster.duplicate_bytes) == (8_000, 3_000)
    assert cluster.first_seen_at.isoformat() == "2026-01-02T03:04:05+00:00"


async def test_tenants_with_identical_pictures_share_nothing(world: World) -> None:
    """Whatever another tenant has, neither its hashes are read nor its pictures counted."""
    one, other, third = [(await world.tenant(name)).id for name in ("One", "Other", "Third")]
    copies = chain(FAR, 5)
    await write_hashes(world.database, one, copies, size=PIXELS)
    await write_hashes(world.database, other, copies, size=PIXELS)
    await write_hashes(world.database, third, [copies[0]], size=PIXELS)
    ledger = PostgresClusters(world.database)
    for tenant_id in (one, other):
        found = await duplicates(world, tenant_id)
        assert (found.hashes, found.pictures, found.bytes) == (5, 5, 5_000)
        assert await ledger.has_more_hashes(tenant_id, 4)
        assert not await ledger.has_more_hashes(tenant_id, 5)
        assert all(str(tenant_id) in picture.s3_key for picture in found.largest[0].pictures)
    assert await duplicates(world, third) == Duplicates(1, 0, 0, 0, 0, True, ())
    everybodys = [sha256_of(name) for name, _ in copies]
    assert set(await ledger.fingerprints(third, everybodys)) == {everybodys[0]}
    assert [size.sha256 for size in await ledger.sizes(third, everybodys)] == [everybodys[0]]
    assert set(await ledger.pictures(third, everybodys)) == {everybodys[0]}


async def test_a_tenant_without_hashes_has_no_cluster(world: World) -> None:
    """Nothing is found where nothing is."""
    assert await duplicates(world, (await world.tenant("Empty")).id) == Duplicates(0, 0, 0, 0, 0, True, ())


async def test_many_copies_are_read_in_pieces(world: World) -> None:
    """Thousands of hashes come over in several pieces; a large cluster is counted whole and shown in part."""
    tenant = (await world.tenant("Many")).id
    copies = [(f"copy {number}", hashed(FAR)) for number in range(3_000)]
    strangers = [(f"stranger {number}", hashed(random.Random(number).getrandbits(64))) for number in range(30_000)]
    await write_hashes(world.database, tenant, copies + strangers, size=PIXELS)
    found = await duplicates(world, tenant, shown=1)
    assert (found.hashes, found.clusters, found.pictures) == (33_000, 1, 3_000)
    assert found.largest[0].count == 3_000
    assert len(found.largest[0].pictures) == PICTURES_SHOWN


async def test_looking_ends_at_the_bound_of_pairs(world: World) -> None:
    """Different pictures with one hash are compared up to the bound; then it is said that there may be more."""
    tenant = (await world.tenant("Collisions")).id
    striped = [
        (f"striped {number}", replace(hashed(FAR), thumbnail=bytes([0, 200]) * number + bytes(4096 - 2 * number)))
        for number in range(100, 160)
    ]
    await write_hashes(world.database, tenant, [*striped, *chain(~FAR & (2**64 - 1), 3)], size=PIXELS)
    ledger = PostgresClusters(world.database)
    for most_pairs, is_complete in ((None, True), (5_000, True), (1_000, False)):
        found = await find_duplicates(tenant, ledger, most_pairs=most_pairs)
        assert found.is_complete is is_complete
        assert found.pictures == 3 or not is_complete
