"""Tenants in line, made by plain SQL as any writer of `posts` could. What is not here: assertions."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from uuid import UUID, uuid4

from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.turns import PostgresLine
from vision_assets.core.tenants import TenantId

TENANT = "INSERT INTO tenants (name) VALUES ($1) RETURNING id"
CHANNEL = "INSERT INTO channels (id, tenant_id, source_key, title) VALUES ($1, $2, 'test:1', 'News')"
POST = """
INSERT INTO posts (id, tenant_id, channel_id, message_id, posted_at, text)
SELECT $1, tenant_id, id, $3, now(), 'text' FROM channels WHERE tenant_id = $2
"""
REFERENCE = """
INSERT INTO post_media (post_id, position, tenant_id, message_id, role, source_uri, state)
VALUES ($1, 0, $2, 1, 'photo', 'file:///1.jpg', 'pending')
"""


@dataclass(slots=True)
class Waiters:
    """A database with tenants."""

    database: Database
    line: PostgresLine
    _messages: "count[int]"

    async def tenant(self, name: str) -> TenantId:
        """A tenant with a channel and nothing to do."""
        tenant_id = TenantId(await self.database.pool.fetchval(TENANT, name))
        await self.run(CHANNEL, uuid4(), tenant_id)
        return tenant_id

    async def tenants(self, number: int) -> list[TenantId]:
        """Several tenants with nothing to do."""
        return [await self.tenant(f"Tenant {place}") for place in range(number)]

    async def post(self, tenant_id: TenantId) -> UUID:
        """A new post of a tenant: it is in line."""
        post_id = uuid4()
        await self.run(POST, post_id, tenant_id, next(self._messages))
        return post_id

    async def seq(self, post_id: UUID) -> int:
        """The place of a post in the order of all."""
        seq: int = await self.database.pool.fetchval("SELECT seq FROM posts WHERE id = $1", post_id)
        return seq

    async def show(self, tenant_id: TenantId) -> UUID:
        """A new post with a picture that is to do."""
        post_id = await self.post(tenant_id)
        await self.run(REFERENCE, post_id, tenant_id)
        return post_id

    async def run(self, statement: str, *values: object) -> None:
        """Run a statement."""
        await self.database.pool.execute(statement, *values)

    async def changes(self) -> dict[TenantId, int]:
        """How many changes of which tenants are in line."""
        rows = await self.database.pool.fetch("SELECT tenant_id, count(*) FROM tenant_changes GROUP BY 1")
        return {TenantId(tenant_id): number for tenant_id, number in rows}

    async def forget(self) -> None:
        """Empty the line."""
        await self.run("DELETE FROM tenant_changes")

    async def let_pass(self, seconds: float) -> None:
        """Let this time pass for all turns and rests."""
        await self.run("UPDATE tenant_turns SET free_at = free_at - make_interval(secs => $1)", seconds)


@asynccontextmanager
async def open_waiters(database_url: str) -> AsyncIterator[Waiters]:
    """Open a migrated database."""
    async with Database.open(database_url, max_size=16) as database:
        yield Waiters(database, PostgresLine(database), count(1))
