-- name: save_channels(tenant_id, ids, source_keys, usernames, titles)!
-- Afterwards every channel is there; one that was renamed has its new names. A source that knows none takes none away.
INSERT INTO channels (id, tenant_id, source_key, username, title)
SELECT id, :tenant_id, source_key, username, title
FROM unnest(:ids::uuid[], :source_keys::text[], :usernames::text[], :titles::text[]) AS c (id, source_key, username, title)
ON CONFLICT (tenant_id, source_key) DO UPDATE
SET title = EXCLUDED.title, username = coalesce(EXCLUDED.username, channels.username)
WHERE channels.title <> EXCLUDED.title OR EXCLUDED.username <> channels.username
    OR (EXCLUDED.username IS NOT NULL AND channels.username IS NULL);

-- name: insert_posts(tenant_id, ids, channel_ids, message_ids, grouped_ids, albums_inferred, posted_at, texts, engagements)
-- Insert what is not there yet and tell which; `seq` rises in the order of the arrays.
INSERT INTO posts (id, tenant_id, channel_id, message_id, grouped_id, album_inferred, posted_at, text, engagement)
SELECT id, :tenant_id, channel_id, message_id, grouped_id, album_inferred, posted_at, text, engagement
FROM unnest(
    :ids::uuid[], :channel_ids::uuid[], :message_ids::bigint[], :grouped_ids::bigint[], :albums_inferred::boolean[],
    :posted_at::timestamptz[], :texts::text[], :engagements::jsonb[]
) WITH ORDINALITY
    AS p (id, channel_id, message_id, grouped_id, album_inferred, posted_at, text, engagement, place)
ORDER BY place
ON CONFLICT DO NOTHING
RETURNING id;

-- name: update_posts(ids, grouped_ids, albums_inferred, texts, engagements, tenant_id)
-- Bring the posts that changed in their source up to date and tell which; equal ones are not written.
UPDATE posts
SET text = p.text, engagement = p.engagement, grouped_id = p.grouped_id, album_inferred = p.album_inferred
FROM unnest(:ids::uuid[], :grouped_ids::bigint[], :albums_inferred::boolean[], :texts::text[], :engagements::jsonb[])
    AS p (id, grouped_id, album_inferred, text, engagement)
WHERE posts.tenant_id = :tenant_id AND posts.id = p.id
    AND (posts.text, posts.engagement, posts.grouped_id, posts.album_inferred)
        IS DISTINCT FROM (p.text, p.engagement, p.grouped_id, p.album_inferred)
RETURNING posts.id;

-- name: reconsider(tenant_id, post_ids)!
-- Takes back that pictures of changed posts are skipped for the post's language: the text may be another one now.
DELETE FROM vision_decisions d USING post_media m
WHERE m.tenant_id = :tenant_id AND m.post_id = ANY(:post_ids::uuid[])
  AND d.tenant_id = m.tenant_id AND d.sha256 = m.sha256 AND d.reason = 'language_not_analysed';

-- name: save_media(tenant_id, post_ids, positions, message_ids, roles, source_uris, states, reasons, errors)
-- Insert the references that are not there yet. One whose bytes were never stored takes the source that a later import
-- offers (exported again with the pictures, or moved); a stored one is left alone.
INSERT INTO post_media (post_id, position, tenant_id, message_id, role, source_uri, state, reason, error)
SELECT post_id, position, :tenant_id, message_id, role, source_uri, state, reason, error
FROM unnest(
    :post_ids::uuid[], :positions::smallint[], :message_ids::bigint[], :roles::text[], :source_uris::text[],
    :states::text[], :reasons::text[], :errors::text[]
) AS m (post_id, position, message_id, role, source_uri, state, reason, error)
ON CONFLICT (post_id, position) DO UPDATE
SET source_uri = EXCLUDED.source_uri, state = EXCLUDED.state, reason = NULL, error = NULL
WHERE post_media.state <> 'stored' AND EXCLUDED.state = 'pending'
    AND post_media.message_id = EXCLUDED.message_id AND post_media.source_uri <> EXCLUDED.source_uri
RETURNING xmax = 0 AS is_new;

-- name: resolve_source(tenant_id, stage, source, still)!
-- Close the open dead letters of one source, and of its items, that did not come up again.
UPDATE dead_letters
SET resolved_at = now()
WHERE tenant_id = :tenant_id AND stage = :stage AND resolved_at IS NULL
    AND (item = :source OR starts_with(item, :source || '#')) AND item <> ALL (:still::text[]);

-- name: ensure_tenant(name)^
-- Afterwards the tenant is there; two callers at once get the same one.
INSERT INTO tenants (name) VALUES (:name)
ON CONFLICT (name) DO UPDATE SET name = EXCLUDED.name
RETURNING id, name, active, settings;

-- name: find_tenant(name, tenant_id)^
-- By name, or by id; no name has the form of an id.
SELECT id, name, active, settings FROM tenants
WHERE CASE WHEN :tenant_id::uuid IS NULL THEN name = :name ELSE id = :tenant_id END;

-- name: replace_policy(tenant_id, before, after)$
-- Replace the policy's part of a tenant's settings if it is still as it was read, and tell whether it was. None: there
-- is no such part, or shall be none.
UPDATE tenants
SET settings = CASE
    WHEN :after::jsonb IS NULL THEN settings - 'vision' ELSE jsonb_set(settings, '{vision}', :after::jsonb)
END
WHERE id = :tenant_id AND nullif(settings -> 'vision', 'null') IS NOT DISTINCT FROM :before::jsonb
RETURNING true;

-- name: list_tenants()
-- The active tenants, by name.
SELECT id, name, active, settings FROM tenants WHERE active ORDER BY name;

-- name: tenants_activity()
-- Every tenant, and whether it is active.
SELECT id, active FROM tenants;
