-- name: try_lock()$
-- One clean-up at a time, until the connection is given back.
SELECT pg_try_advisory_lock(hashtextextended('vision_assets: clean-up of storage', 0));

-- name: taken_bytes()$
-- What is stored and reserved by all tenants together.
SELECT sum(total_bytes + reserved_bytes)::bigint FROM storage_totals;

-- name: overdue_tenants(now)
-- Tenants with operations that never came back.
SELECT DISTINCT tenant_id FROM storage_objects WHERE op_id IS NOT NULL AND op_until <= :now ORDER BY tenant_id;

-- name: old_objects(content_type, before, after_at, after_tenant, after_key, row_limit)
-- Objects of all tenants of a type, crawl or vision, that were put before and that nothing is under way for, the oldest
-- first. A result that stands in S3 alone stays as long as its picture: the next pass over the pictures takes it from
-- there.
SELECT o.tenant_id, o.s3_key, o.content_type, o.bytes, o.recorded_at AS place_at, o.s3_key AS place_key
FROM storage_objects o
WHERE o.content_type = :content_type AND o.bytes IS NOT NULL AND o.op_id IS NULL AND o.recorded_at < :before
  AND (o.recorded_at, o.tenant_id, o.s3_key) > (:after_at::timestamptz, :after_tenant::uuid, :after_key::text)
  AND (NOT EXISTS (
          SELECT FROM media_objects m
          WHERE m.tenant_id = o.tenant_id AND m.sha256 = substring(o.s3_key FROM '^vision/[^/]*/([0-9a-f]{64})_'))
      OR EXISTS (
          SELECT FROM vision_results r
          WHERE r.tenant_id = o.tenant_id AND r.sha256 = substring(o.s3_key FROM '^vision/[^/]*/([0-9a-f]{64})_')
            AND coalesce(r.s3_key, o.s3_key) = o.s3_key))
ORDER BY o.recorded_at, o.tenant_id, o.s3_key
LIMIT :row_limit;

-- name: still_old(tenant_id, s3_keys, before)
-- Which of these may go now, under the tenant's lock, by the conditions of `old_objects`; without its order and limit,
-- so that they are looked up by their keys.
SELECT o.s3_key
FROM storage_objects o
WHERE o.tenant_id = :tenant_id AND o.s3_key = ANY(:s3_keys::text[])
  AND o.bytes IS NOT NULL AND o.op_id IS NULL AND o.recorded_at < :before
  AND (NOT EXISTS (
          SELECT FROM media_objects m
          WHERE m.tenant_id = o.tenant_id AND m.sha256 = substring(o.s3_key FROM '^vision/[^/]*/([0-9a-f]{64})_'))
      OR EXISTS (
          SELECT FROM vision_results r
          WHERE r.tenant_id = o.tenant_id AND r.sha256 = substring(o.s3_key FROM '^vision/[^/]*/([0-9a-f]{64})_')
            AND coalesce(r.s3_key, o.s3_key) = o.s3_key));

-- name: unreferenced_pictures(before, settled_before, vision_before, after_at, after_tenant, after_key, row_limit)
-- Pictures of all tenants that no post refers to and that nothing is under way for, for their results neither, least
-- recently used first; just before each one its results in S3, but for those old enough to go by themselves.
WITH pictures AS MATERIALIZED (
    SELECT o.tenant_id, o.s3_key, o.bytes, m.sha256, coalesce(m.last_used_at, o.recorded_at) AS used_at
    FROM storage_objects o
    LEFT JOIN media_objects m ON m.tenant_id = o.tenant_id AND m.s3_key = o.s3_key
    WHERE o.content_type = 'media' AND o.bytes IS NOT NULL AND o.op_id IS NULL AND o.recorded_at < :settled_before
      AND coalesce(m.last_used_at, o.recorded_at) < :before
      AND (coalesce(m.last_used_at, o.recorded_at), o.tenant_id, o.s3_key)
          > (:after_at::timestamptz, :after_tenant::uuid, :after_key::text)
      AND NOT EXISTS (
          SELECT FROM post_media p
          WHERE p.tenant_id = o.tenant_id
            AND p.sha256 = coalesce(m.sha256, left(split_part(o.s3_key, '/', -1), 64)))
      AND NOT EXISTS (
          SELECT FROM vision_results r
          JOIN storage_objects v ON v.tenant_id = r.tenant_id AND v.s3_key = r.s3_key
          WHERE r.tenant_id = m.tenant_id AND r.sha256 = m.sha256
            AND (v.op_id IS NOT NULL OR v.recorded_at >= :settled_before))
    ORDER BY used_at, o.tenant_id, o.s3_key
    LIMIT :row_limit
)
SELECT tenant_id, s3_key, 'media' AS content_type, bytes, used_at AS place_at, s3_key AS place_key FROM pictures
UNION ALL
SELECT v.tenant_id, v.s3_key, v.content_type, v.bytes, p.used_at, p.s3_key
FROM pictures p
JOIN vision_results r ON r.tenant_id = p.tenant_id AND r.sha256 = p.sha256
JOIN storage_objects v ON v.tenant_id = r.tenant_id AND v.s3_key = r.s3_key
WHERE v.bytes IS NOT NULL AND v.op_id IS NULL AND v.recorded_at < :settled_before AND v.recorded_at >= :vision_before
ORDER BY place_at, tenant_id, place_key, content_type DESC, s3_key;

-- name: lock_pictures(tenant_id, s3_keys)!
-- Keeps pictures from being used until the transaction ends; comes after the tenant's usage and before their results, as
-- where results are written.
SELECT FROM media_objects WHERE tenant_id = :tenant_id AND s3_key = ANY(:s3_keys::text[]) ORDER BY sha256 FOR UPDATE;

-- name: still_unreferenced(tenant_id, s3_keys, before, settled_before)
-- Which of these pictures may go now, under the tenant's lock and their own, by the conditions of
-- `unreferenced_pictures`; none of which a result is left in S3.
SELECT o.s3_key
FROM storage_objects o
LEFT JOIN media_objects m ON m.tenant_id = o.tenant_id AND m.s3_key = o.s3_key
WHERE o.tenant_id = :tenant_id AND o.s3_key = ANY(:s3_keys::text[])
  AND o.bytes IS NOT NULL AND o.op_id IS NULL AND o.recorded_at < :settled_before
  AND coalesce(m.last_used_at, o.recorded_at) < :before
  AND NOT EXISTS (
      SELECT FROM post_media p
      WHERE p.tenant_id = o.tenant_id
        AND p.sha256 = coalesce(m.sha256, left(split_part(o.s3_key, '/', -1), 64)))
  AND NOT EXISTS (
      SELECT FROM vision_results r
      JOIN storage_objects v ON v.tenant_id = r.tenant_id AND v.s3_key = r.s3_key
      WHERE r.tenant_id = m.tenant_id AND r.sha256 = m.sha256);

-- name: forget_results(tenant_id, s3_keys)!
-- Notes that results stand in Postgres alone, on purpose. They stay done.
UPDATE vision_results r SET s3_key = NULL, s3_bytes = NULL, s3_evicted_at = now()
FROM unnest(:s3_keys::text[]) AS gone (s3_key)
WHERE r.tenant_id = :tenant_id AND r.sha256 = substring(gone.s3_key FROM '^vision/[^/]*/([0-9a-f]{64})_')
  AND r.s3_key = gone.s3_key;

-- name: lock_enriched(tenant_id, s3_keys)!
-- Locks the rows of all posts that may tell these keys, in the order of the posts, as their writers do. Comes before the
-- two statements that change them.
SELECT FROM post_enrichment e
JOIN posts p ON p.tenant_id = e.tenant_id AND p.id = e.post_id
WHERE e.tenant_id = :tenant_id AND e.kind = 'vision' AND e.post_id IN (
    SELECT m.post_id
    FROM unnest(:s3_keys::text[]) AS gone (s3_key)
    JOIN post_media m ON m.tenant_id = :tenant_id
                     AND m.sha256 = substring(gone.s3_key FROM '^vision/[^/]*/([0-9a-f]{64})_')
    UNION
    SELECT substring(gone.s3_key FROM '^album/[^/]*/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})_')::uuid
    FROM unnest(:s3_keys::text[]) AS gone (s3_key))
ORDER BY p.seq
FOR UPDATE OF e;

-- name: forget_keys_of_posts(tenant_id, s3_keys)!
-- Takes the keys of removed results out of the enriched posts that tell them. The rows stay up to date: what they say
-- of the pictures is as true as before.
UPDATE post_enrichment e SET updated_at = now(), data = e.data || (
    SELECT jsonb_build_object(
        's3_keys_list', coalesce(jsonb_agg(item ORDER BY place), '[]'),
        's3_keys', CASE WHEN count(*) = 0 THEN '{}'
                        ELSE jsonb_build_object('image', (array_agg(item ->> 's3_key' ORDER BY place))[1]) END)
    FROM jsonb_array_elements(e.data -> 's3_keys_list') WITH ORDINALITY AS list (item, place)
    WHERE item ->> 's3_key' <> ALL(:s3_keys::text[]))
WHERE e.tenant_id = :tenant_id AND e.kind = 'vision' AND e.post_id IN (
    SELECT m.post_id
    FROM unnest(:s3_keys::text[]) AS gone (s3_key)
    JOIN post_media m ON m.tenant_id = :tenant_id
                     AND m.sha256 = substring(gone.s3_key FROM '^vision/[^/]*/([0-9a-f]{64})_'))
  AND EXISTS (
    SELECT FROM jsonb_array_elements(e.data -> 's3_keys_list') AS item
    WHERE item ->> 's3_key' = ANY(:s3_keys::text[]));

-- name: forget_summaries(tenant_id, s3_keys)!
-- Takes the keys of removed albums' summaries out of their posts' rows.
UPDATE post_enrichment e SET data = e.data - 'album_summary_s3_key', updated_at = now()
FROM unnest(:s3_keys::text[]) AS gone (s3_key)
WHERE e.tenant_id = :tenant_id AND e.kind = 'vision'
  AND e.post_id = substring(gone.s3_key FROM '^album/[^/]*/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})_')::uuid
  AND e.data ->> 'album_summary_s3_key' = gone.s3_key;

-- name: forget_pictures(tenant_id, s3_keys)!
-- Removes pictures' rows, with their hashes and results.
DELETE FROM media_objects WHERE tenant_id = :tenant_id AND s3_key = ANY(:s3_keys::text[]);

-- name: stored(tenant_id, s3_keys)
-- Which of these objects are known to lie in S3.
SELECT s3_key FROM storage_objects
WHERE tenant_id = :tenant_id AND s3_key = ANY(:s3_keys::text[]) AND bytes IS NOT NULL;

-- name: count(tenant_id, names, labels, amounts)!
-- Raises counters of a tenant, as long as it is there. One order for all, so that two writers never deadlock.
INSERT INTO counters (tenant_id, name, labels, value)
SELECT t.id, c.name, c.labels, c.amount
FROM tenants t, unnest(:names::text[], :labels::jsonb[], :amounts::bigint[]) AS c (name, labels, amount)
WHERE t.id = :tenant_id
ORDER BY c.name, c.labels
ON CONFLICT (tenant_id, name, labels) DO UPDATE SET value = counters.value + excluded.value;
