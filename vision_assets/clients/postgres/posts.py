"""Posts, their channels and references, and the tenants that they belong to, in Postgres.

What is not here: what becomes of the references (`media.py`), and any decision about a post (`core/posts.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from vision_assets.clients.postgres import Connection, Database, statements
from vision_assets.clients.postgres.ledger import record_dead_letters
from vision_assets.core.errors import ConfigurationError, TenantUnknown
from vision_assets.core.importing import DeadLetter, Saved, tenant_name
from vision_assets.core.posts import Post
from vision_assets.core.tenants import Tenant, TenantId

sql = statements("posts")


@dataclass(frozen=True, slots=True)
class PostgresPosts:
    """Implements `core.importing.PostStore`."""

    database: Database

    async def save(self, tenant_id: TenantId, posts: Sequence[Post]) -> Saved:
        """See the Protocol."""
        async with self.database.transaction() as connection:
            await _save_channels(connection, tenant_id, posts)
            new = await _insert_posts(connection, tenant_id, posts)
            updated = await _update_posts(connection, tenant_id, [post for post in posts if post.id not in new])
            media_new, media_relocated = await _save_media(connection, tenant_id, posts)
        return Saved(len(new), updated, media_new, media_relocated)

    async def record_dead_letters(self, tenant_id: TenantId, letters: Sequence[DeadLetter], *, stage: str) -> None:
        """See the Protocol."""
        async with self.database.transaction() as connection:
            await record_dead_letters(
                connection,
                tenant_id,
                [(stage, letter.item, letter.error_class, letter.reason, letter.message) for letter in letters],
            )

    async def resolve_dead_letters(self, tenant_id: TenantId, *, stage: str, source: str, still: Sequence[str]) -> None:
        """See the Protocol."""
        async with self.database.connection() as connection:
            await sql.resolve_source(connection, tenant_id=tenant_id, stage=stage, source=source, still=still)


async def ensure_tenant(database: Database, name: str) -> Tenant:
    """Find a tenant by name, or make it.

    Raises:
        ConfigurationError: The name cannot be one.
        TenantUnknown: The tenant is there, but not active.
    """
    async with database.connection() as connection:
        row = await sql.ensure_tenant(connection, name=tenant_name(name))
    return _active(row)


async def find_tenant(database: Database, name_or_id: str) -> Tenant:
    """Find a tenant by its name or its id.

    Raises:
        TenantUnknown: There is none, or it is not active.
    """
    return _active(await _found(database, name_or_id))


async def find_tenant_id(database: Database, name_or_id: str) -> TenantId:
    """Find the id of a tenant that need not be active.

    Raises:
        TenantUnknown: There is none.
    """
    return TenantId((await _found(database, name_or_id))["id"])


async def _found(database: Database, name_or_id: str) -> Mapping[str, Any]:
    name = name_or_id.strip()
    try:
        tenant_id = UUID(name)
    except ValueError:
        tenant_id = None
        try:
            name = tenant_name(name_or_id)
        except ConfigurationError as error:
            raise TenantUnknown(f"There can be no such tenant: {error}") from error
    async with database.connection() as connection:
        row = await sql.find_tenant(connection, name=name, tenant_id=tenant_id)
    if row is None:
        raise TenantUnknown(f"There is no tenant {name!r}: import an export for it first.")
    found: Mapping[str, Any] = row
    return found


async def replace_policy(
    database: Database, tenant_id: TenantId, *, before: object, after: Mapping[str, object] | None
) -> bool:
    """Replace the policy's part of a tenant's settings, unless somebody else has changed it meanwhile.

    Args:
        before: As it was read; None: there was none.
        after: None: there shall be none.

    Returns:
        False: It is not as it was read, and stays as it is.
    """
    async with database.connection() as connection:
        return bool(await sql.replace_policy(connection, tenant_id=tenant_id, before=before, after=after))


async def list_tenants(database: Database) -> list[Tenant]:
    """List the active tenants, by name."""
    async with database.connection() as connection:
        return [_active(row) async for row in sql.list_tenants(connection)]


async def tenants_activity(database: Database) -> dict[TenantId, bool]:
    """Tell of every tenant whether it is active."""
    async with database.connection() as connection:
        return {TenantId(row["id"]): row["active"] async for row in sql.tenants_activity(connection)}


def _active(row: Mapping[str, Any]) -> Tenant:
    if not row["active"]:
        raise TenantUnknown(f"The tenant {row['name']!r} is not active: set tenants.active to make it so again.")
    return Tenant(TenantId(row["id"]), row["name"], row["settings"])


async def _save_channels(connection: Connection, tenant_id: TenantId, posts: Sequence[Post]) -> None:
    # One order for all, so that two imports of a tenant never deadlock.
    channels = sorted({post.channel.id: post.channel for post in posts}.values(), key=lambda channel: channel.id)
    await sql.save_channels(
        connection,
        tenant_id=tenant_id,
        ids=[channel.id for channel in channels],
        source_keys=[channel.source_key for channel in channels],
        usernames=[channel.username for channel in channels],
        titles=[channel.title for channel in channels],
    )


async def _insert_posts(connection: Connection, tenant_id: TenantId, posts: Sequence[Post]) -> set[UUID]:
    rows = sql.insert_posts(
        connection,
        tenant_id=tenant_id,
        ids=[post.id for post in posts],
        channel_ids=[post.channel.id for post in posts],
        message_ids=[post.message_id for post in posts],
        grouped_ids=[post.grouped_id for post in posts],
        albums_inferred=[post.album_inferred for post in posts],
        posted_at=[post.posted_at for post in posts],
        texts=[post.text for post in posts],
        engagements=[post.engagement for post in posts],
    )
    return {row["id"] async for row in rows}


async def _update_posts(connection: Connection, tenant_id: TenantId, posts: Sequence[Post]) -> int:
    rows = sql.update_posts(
        connection,
        tenant_id=tenant_id,
        ids=[post.id for post in posts],
        grouped_ids=[post.grouped_id for post in posts],
        albums_inferred=[post.album_inferred for post in posts],
        texts=[post.text for post in posts],
        engagements=[post.engagement for post in posts],
    )
    updated = [row["id"] async for row in rows]
    await sql.reconsider(connection, tenant_id=tenant_id, post_ids=updated)
    return len(updated)


async def _save_media(connection: Connection, tenant_id: TenantId, posts: Sequence[Post]) -> tuple[int, int]:
    media = [(post.id, reference) for post in posts for reference in post.media]
    rows = sql.save_media(
        connection,
        tenant_id=tenant_id,
        post_ids=[post_id for post_id, _ in media],
        positions=[reference.position for _, reference in media],
        message_ids=[reference.message_id for _, reference in media],
        roles=[reference.role for _, reference in media],
        source_uris=[reference.source_uri for _, reference in media],
        states=[reference.state for _, reference in media],
        reasons=[reference.reason for _, reference in media],
        errors=[reference.error for _, reference in media],
    )
    written = [row["is_new"] async for row in rows]
    return written.count(True), written.count(False)
