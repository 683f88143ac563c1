"""A picture's neighbours are found through the indexes of the chunks, in its own tenant alone."""

import numpy as np

from tests.hashed import hashed, sha256_of, write_hashes
from tests.world import World
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.posts import ensure_tenant
from vision_assets.clients.postgres.quote import PostgresQuote
from vision_assets.clients.postgres.vision import PostgresVision
from vision_assets.core.neighbours import Fingerprint
from vision_assets.core.vision_ledger import Medium

PICTURES = 3_000


async def entries_read(database: Database) -> int:
    """Entries that scans of the indexes of hashes have returned so far."""
    await database.pool.execute("SELECT pg_stat_force_next_flush()")
    read = "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE relname = 'phash_index'"
    count: int = await database.pool.fetchval(read)
    return count


async def test_a_tenant_that_the_planner_does_not_know_is_not_read_as_a_whole(world: World, database: str) -> None:
    """However new a tenant is to the statistics, a look-up reads few of its hashes, and finds none of another's."""
    hashes = np.random.default_rng(1).integers(0, 2**64, PICTURES, dtype=np.uint64)
    pictures = [(f"{number}", hashed(phash)) for number, phash in enumerate(hashes.tolist())]
    phash = int(hashes[17])
    medium = Medium(
        sha256=sha256_of("later"),
        mime="image/jpeg",
        s3_key="unused",
        order=(PICTURES + 1, 0),
        fingerprint=Fingerprint(phash ^ 0b11, bytes(32), bytes(4096), 640, 480),
    )
    async with Database.open(database, max_size=1) as alone:  # one session, so that it knows all that it has read
        known, fresh = [(await ensure_tenant(alone, name)).id for name in ("Known", "Fresh")]
        await alone.pool.execute("ALTER TABLE phash_index SET (autovacuum_enabled = false)")
        await write_hashes(alone, known, pictures, size=(640, 480))
        await alone.pool.execute("VACUUM ANALYZE phash_index")
        await write_hashes(alone, fresh, pictures, size=(640, 480))
        read = []
        for asked in (fresh, known, fresh, known):
            earlier = await PostgresVision(alone).earlier_neighbours(asked, medium, provider=world.provider)
            quoted = await PostgresQuote(alone).near(asked, [medium], provider=world.provider)
            assert [found.sha256 for found in earlier] == [sha256_of("17")]
            assert [found.sha256 for found in quoted[medium.sha256].earlier] == [sha256_of("17")]
            read.append(await entries_read(alone))
        assert read[-1] - read[0] < PICTURES // 20  # the first look-up is told together with what was written before
        nobody = (await ensure_tenant(alone, "Without a picture")).id
        assert not await PostgresVision(alone).earlier_neighbours(nobody, medium, provider=world.provider)
        assert not await PostgresQuote(alone).near(nobody, [medium], provider=world.provider)
