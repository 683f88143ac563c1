-- name: orphans(tenant_id, before, per_folder)
-- Objects of one tenant that nothing is under way for, that were last booked or used before a moment, and that no row
-- refers to: the first few of each folder, with the folder's sums. A result without a row is kept as long as its picture
-- is there: the next pass over the pictures takes it from S3. Crawled pages have no rows; they go by their age. The name
-- of a picture or a result begins with its hash; what another name begins with is no picture's hash.
WITH settled AS MATERIALIZED (
    SELECT tenant_id, s3_key, content_type, bytes, split_part(s3_key, '/', 1) AS folder,
           left(split_part(s3_key, '/', -1), 64) AS sha256
    FROM storage_objects
    WHERE tenant_id = :tenant_id AND content_type <> 'crawl' AND bytes IS NOT NULL AND op_id IS NULL
      AND recorded_at < :before
), orphans AS (
    SELECT * FROM settled o
    WHERE folder = 'media'
      AND NOT EXISTS (SELECT FROM media_objects m WHERE m.tenant_id = o.tenant_id AND m.s3_key = o.s3_key)
      AND NOT EXISTS (SELECT FROM post_media p WHERE p.tenant_id = o.tenant_id AND p.sha256 = o.sha256)
    UNION ALL
    SELECT * FROM settled o
    WHERE folder = 'vision'
      AND NOT EXISTS (SELECT FROM vision_results r WHERE r.tenant_id = o.tenant_id AND r.s3_key = o.s3_key)
      AND NOT EXISTS (SELECT FROM media_objects m WHERE m.tenant_id = o.tenant_id AND m.sha256 = o.sha256)
    UNION ALL
    SELECT * FROM settled o
    WHERE folder = 'album'
      AND NOT EXISTS (SELECT FROM post_enrichment e
                      WHERE e.tenant_id = o.tenant_id AND e.data ->> 'album_summary_s3_key' = o.s3_key)
)
SELECT folder, folder_objects, folder_bytes, s3_key, content_type, bytes
FROM (
    SELECT *, count(*) OVER folders AS folder_objects, (sum(bytes) OVER folders)::bigint AS folder_bytes,
           row_number() OVER (PARTITION BY folder ORDER BY s3_key COLLATE "C") AS place
    FROM orphans
    WINDOW folders AS (PARTITION BY folder)
) placed
WHERE place <= :per_folder
ORDER BY folder, place;

-- name: still_orphans(tenant_id, s3_keys, before)
-- Which of these are orphans now, under the tenant's lock, by the conditions of `orphans`; they are looked up by their
-- keys.
WITH settled AS MATERIALIZED (
    SELECT tenant_id, s3_key, content_type, split_part(s3_key, '/', 1) AS folder,
           left(split_part(s3_key, '/', -1), 64) AS sha256
    FROM storage_objects
    WHERE tenant_id = :tenant_id AND s3_key = ANY(:s3_keys::text[])
      AND content_type <> 'crawl' AND bytes IS NOT NULL AND op_id IS NULL AND recorded_at < :before
)
SELECT s3_key, content_type FROM settled o
WHERE folder = 'media'
  AND NOT EXISTS (SELECT FROM media_objects m WHERE m.tenant_id = o.tenant_id AND m.s3_key = o.s3_key)
  AND NOT EXISTS (SELECT FROM post_media p WHERE p.tenant_id = o.tenant_id AND p.sha256 = o.sha256)
UNION ALL
SELECT s3_key, content_type FROM settled o
WHERE folder = 'vision'
  AND NOT EXISTS (SELECT FROM vision_results r WHERE r.tenant_id = o.tenant_id AND r.s3_key = o.s3_key)
  AND NOT EXISTS (SELECT FROM media_objects m WHERE m.tenant_id = o.tenant_id AND m.sha256 = o.sha256)
UNION ALL
SELECT s3_key, content_type FROM settled o
WHERE folder = 'album'
  AND NOT EXISTS (SELECT FROM post_enrichment e
                  WHERE e.tenant_id = o.tenant_id AND e.data ->> 'album_summary_s3_key' = o.s3_key);

-- name: tenants()
-- All tenants, active or not: the objects of one that is not active are no strays.
SELECT id FROM tenants;
