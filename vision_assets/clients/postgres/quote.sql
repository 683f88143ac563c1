-- name: in_storage(tenant_id, sha256s, s3_keys, provider, model, schema_version, fingerprint)
-- Pictures whose result is counted as lying in S3, unless their row says that it is an answer to another question.
SELECT p.sha256
FROM unnest(:sha256s::text[], :s3_keys::text[]) AS p (sha256, s3_key)
CROSS JOIN LATERAL (
    SELECT FROM storage_objects WHERE tenant_id = :tenant_id AND s3_key = p.s3_key AND bytes IS NOT NULL LIMIT 1
) o
WHERE NOT EXISTS (
    SELECT FROM vision_results r
    WHERE r.tenant_id = :tenant_id AND r.sha256 = p.sha256 AND r.provider = :provider AND r.model = :model
      AND r.schema_version = :schema_version AND r.fingerprint <> :fingerprint);

-- name: near(tenant_id, sha256s, phashes, post_seqs, positions, masks, algorithm, provider, model, schema_version, fingerprint, radius_bits, row_limit, reuse_limit)
-- For each of the pictures: those of the tenant that `earlier_neighbours` (vision.sql) finds, nearest first; and one row
-- without a hash if a later picture is within the radius. Masks are the bits in which a 16-bit chunk may differ.
SELECT asked.sha256 AS of_sha256, found.*
FROM unnest(:sha256s::text[], :phashes::bigint[], :post_seqs::bigint[], :positions::int[])
     AS asked (sha256, phash, post_seq, position)
CROSS JOIN LATERAL (
    WITH candidates AS (
        SELECT phash FROM phash_index
        WHERE tenant_id = (SELECT :tenant_id::uuid) AND flags = '{}' AND ((phash >> 0) & 65535) = ANY(ARRAY(
            SELECT ((asked.phash >> 0) & 65535) # mask FROM unnest(:masks::bigint[]) AS bits (mask)))
        UNION
        SELECT phash FROM phash_index
        WHERE tenant_id = (SELECT :tenant_id::uuid) AND flags = '{}' AND ((phash >> 16) & 65535) = ANY(ARRAY(
            SELECT ((asked.phash >> 16) & 65535) # mask FROM unnest(:masks::bigint[]) AS bits (mask)))
        UNION
        SELECT phash FROM phash_index
        WHERE tenant_id = (SELECT :tenant_id::uuid) AND flags = '{}' AND ((phash >> 32) & 65535) = ANY(ARRAY(
            SELECT ((asked.phash >> 32) & 65535) # mask FROM unnest(:masks::bigint[]) AS bits (mask)))
        UNION
        SELECT phash FROM phash_index
        WHERE tenant_id = (SELECT :tenant_id::uuid) AND flags = '{}'
          AND ((phash >> 48) & 65535) = ((asked.phash >> 48) & 65535)
    ), placed AS MATERIALIZED (
        SELECT n.sha256, bit_count((c.phash # asked.phash)::bit(64)) AS distance_bits, o.*,
               (o.first_post_seq, o.first_position, n.sha256) < (asked.post_seq, asked.position, asked.sha256)
                   AS is_earlier
        FROM candidates c
        CROSS JOIN LATERAL (
            SELECT sha256 FROM phash_index
            WHERE tenant_id = (SELECT :tenant_id::uuid) AND flags = '{}' AND phash = c.phash
            OFFSET 0
        ) n
        CROSS JOIN LATERAL (
            SELECT first_post_seq, first_position, width, height FROM media_objects
            WHERE tenant_id = :tenant_id AND sha256 = n.sha256
            LIMIT 1
        ) o
        WHERE bit_count((c.phash # asked.phash)::bit(64)) <= :radius_bits AND n.sha256 <> asked.sha256
    ), earlier AS MATERIALIZED (
        SELECT p.*, r.method,
               row_number() OVER (PARTITION BY coalesce(r.method, '') = 'near_duplicate', coalesce(r.is_answer, false)
                                  ORDER BY p.distance_bits, p.first_post_seq, p.first_position, p.sha256) AS place
        FROM placed p
        LEFT JOIN LATERAL (
            SELECT method, result IS NOT NULL AS is_answer FROM vision_results
            WHERE tenant_id = :tenant_id AND sha256 = p.sha256 AND provider = :provider AND model = :model
              AND schema_version = :schema_version AND fingerprint = :fingerprint
            LIMIT 1
        ) r ON true
        WHERE p.is_earlier
    )
    SELECT e.sha256, e.first_post_seq, e.first_position, e.width, e.height, e.method, e.place, h.phash, h.phash256,
           h.thumbnail, r.result
    FROM earlier e
    CROSS JOIN LATERAL (
        SELECT phash, phash256, thumbnail FROM phash_index
        WHERE tenant_id = :tenant_id AND sha256 = e.sha256 AND algorithm = :algorithm
        LIMIT 1
    ) h
    LEFT JOIN LATERAL (
        SELECT result FROM vision_results
        WHERE tenant_id = :tenant_id AND sha256 = e.sha256 AND provider = :provider AND model = :model
          AND schema_version = :schema_version AND fingerprint = :fingerprint AND method = 'new'
        LIMIT 1
    ) r ON true
    WHERE e.place <= CASE e.method WHEN 'near_duplicate' THEN :reuse_limit::int ELSE :row_limit::int END
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    WHERE EXISTS (SELECT FROM placed WHERE NOT is_earlier)
) found
ORDER BY asked.sha256, found.place;

-- name: pace(tenant_id, provider, model)^
-- How many of a tenant's pictures a provider has looked at, and how long that took.
SELECT coalesce(sum(value) FILTER (WHERE name = 'vision_analyses_total'), 0)::bigint AS calls,
       coalesce(sum(value) FILTER (WHERE name = 'vision_analysis_duration_milliseconds_total'), 0)::bigint
           AS milliseconds
FROM counters
WHERE tenant_id = :tenant_id AND name IN ('vision_analyses_total', 'vision_analysis_duration_milliseconds_total')
  AND labels = jsonb_build_object('model', :model::text, 'provider', :provider::text);
