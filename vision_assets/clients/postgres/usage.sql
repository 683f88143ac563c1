-- name: begin_listing()#
-- A place for the listing, gone with the transaction.
CREATE TEMPORARY TABLE listing (s3_key text PRIMARY KEY, content_type text NOT NULL, bytes bigint NOT NULL)
ON COMMIT DROP;

-- name: drift(tenant_id, listed_from)
-- Where ledger and listing of one tenant differ, leaving out what was recorded since the listing began.
SELECT class, count(*) AS objects, sum(bytes)::bigint AS bytes, (array_agg(s3_key ORDER BY s3_key))[1 : 5] AS examples
FROM (
    SELECT coalesce(l.s3_key, o.s3_key) AS s3_key,
           CASE WHEN l.s3_key IS NULL THEN 'missing' WHEN o.s3_key IS NULL THEN 'untracked' ELSE 'wrong_size' END
               AS class,
           CASE WHEN l.s3_key IS NULL THEN o.bytes WHEN o.s3_key IS NULL THEN l.bytes ELSE l.bytes - o.bytes END
               AS bytes
    FROM listing l
    FULL JOIN (SELECT * FROM storage_objects WHERE tenant_id = :tenant_id) o ON o.s3_key = l.s3_key
    WHERE l.bytes IS DISTINCT FROM o.bytes
      AND (o.recorded_at IS NULL OR o.recorded_at < :listed_from)
) difference
GROUP BY class;

-- name: remove_missing(tenant_id, listed_from)!
-- Takes out of the ledger what the listing does not have.
DELETE FROM storage_objects o
WHERE o.tenant_id = :tenant_id AND o.recorded_at < :listed_from
  AND NOT EXISTS (SELECT FROM listing l WHERE l.s3_key = o.s3_key);

-- name: take_listed(tenant_id, listed_from)!
-- Takes into the ledger what the listing has and it has not, and other sizes; what agrees is not touched.
INSERT INTO storage_objects AS o (tenant_id, s3_key, content_type, bytes)
SELECT :tenant_id, l.s3_key, l.content_type, l.bytes
FROM listing l
LEFT JOIN storage_objects known ON known.tenant_id = :tenant_id AND known.s3_key = l.s3_key
WHERE known.s3_key IS NULL OR known.bytes <> l.bytes AND known.recorded_at < :listed_from
ON CONFLICT (tenant_id, s3_key) DO UPDATE SET bytes = excluded.bytes, recorded_at = now()
WHERE o.bytes <> excluded.bytes AND o.recorded_at < :listed_from;

-- name: usage(tenant_id)
-- What one tenant has stored, by content type.
SELECT content_type, total_bytes, objects_count FROM tenant_storage_usage
WHERE tenant_id = :tenant_id
ORDER BY content_type;

-- name: ensure_usage_rows(tenant_id)!
-- Every tenant has a row for each type, so that "nothing stored" is a figure and not an absence.
INSERT INTO tenant_storage_usage (tenant_id, content_type)
SELECT :tenant_id, content_type FROM unnest(ARRAY['crawl', 'media', 'vision']) AS content_type
ON CONFLICT DO NOTHING;

-- name: touch_usage(tenant_id)!
-- Notes that the figures were held against S3 just now.
UPDATE tenant_storage_usage SET last_updated = now() WHERE tenant_id = :tenant_id;
