-- name: count_unanalysed(tenant_id, provider, model, schema_version, fingerprint)$
-- Pictures of one tenant without a result of this provider at this fingerprint in S3, where the clean-up has not
-- removed it on purpose.
SELECT count(*) FROM media_objects o
WHERE o.tenant_id = :tenant_id AND NOT EXISTS (
    SELECT FROM vision_results r
    WHERE r.tenant_id = o.tenant_id AND r.sha256 = o.sha256 AND r.provider = :provider AND r.model = :model
      AND r.schema_version = :schema_version AND r.fingerprint = :fingerprint
      AND (r.s3_key IS NOT NULL OR r.s3_evicted_at IS NOT NULL OR r.result IS NULL));

-- name: unanalysed(tenant_id, algorithm, provider, model, schema_version, fingerprint, after_seq, after_position, after_sha256, row_limit)
-- Pictures of one tenant without a result of this provider at this fingerprint in S3, where the clean-up has not
-- removed it on purpose, by first appearance. Results and hashes are looked up row by row along the index of that order,
-- so a page costs what it returns.
SELECT o.sha256, o.mime, o.s3_key, o.first_post_seq, o.first_position, o.width, o.height,
       h.phash, h.phash256, h.thumbnail, r.result AS kept
FROM media_objects o
LEFT JOIN LATERAL (
    SELECT s3_key, result FROM vision_results
    WHERE tenant_id = o.tenant_id AND sha256 = o.sha256 AND provider = :provider AND model = :model
      AND schema_version = :schema_version AND fingerprint = :fingerprint
    LIMIT 1
) r ON true
LEFT JOIN LATERAL (
    SELECT phash, phash256, thumbnail FROM phash_index
    WHERE tenant_id = o.tenant_id AND sha256 = o.sha256 AND algorithm = :algorithm AND flags = '{}'
    LIMIT 1
) h ON true
WHERE o.tenant_id = :tenant_id
  AND (o.first_post_seq, o.first_position, o.sha256) > (:after_seq, :after_position, :after_sha256)
  AND NOT EXISTS (
    SELECT FROM vision_results done
    WHERE done.tenant_id = o.tenant_id AND done.sha256 = o.sha256 AND done.provider = :provider
      AND done.model = :model AND done.schema_version = :schema_version AND done.fingerprint = :fingerprint
      AND (done.s3_key IS NOT NULL OR done.s3_evicted_at IS NOT NULL OR done.result IS NULL))
ORDER BY o.first_post_seq, o.first_position, o.sha256
LIMIT :row_limit;

-- name: earlier_neighbours(tenant_id, chunk0, chunk1, chunk2, chunk3, algorithm, provider, model, schema_version, fingerprint, phash, radius_bits, before_seq, before_position, before_sha256, row_limit)
-- Pictures of one tenant whose hash is within the radius, that appeared earlier, and that have a result of their own or
-- none yet: nearest first. The tenant leads every index used. A planner cannot guess how few bit_count() leaves, so each
-- further table is looked up row by row.
WITH candidates AS (
    SELECT sha256, phash FROM phash_index
    WHERE tenant_id = :tenant_id AND flags = '{}' AND ((phash >> 0) & 65535) = ANY(:chunk0::bigint[])
    UNION
    SELECT sha256, phash FROM phash_index
    WHERE tenant_id = :tenant_id AND flags = '{}' AND ((phash >> 16) & 65535) = ANY(:chunk1::bigint[])
    UNION
    SELECT sha256, phash FROM phash_index
    WHERE tenant_id = :tenant_id AND flags = '{}' AND ((phash >> 32) & 65535) = ANY(:chunk2::bigint[])
    UNION
    SELECT sha256, phash FROM phash_index
    WHERE tenant_id = :tenant_id AND flags = '{}' AND ((phash >> 48) & 65535) = ANY(:chunk3::bigint[])
), near AS MATERIALIZED (
    SELECT sha256, bit_count((phash # :phash::bigint)::bit(64)) AS distance_bits FROM candidates
    WHERE bit_count((phash # :phash::bigint)::bit(64)) <= :radius_bits
), earliest AS MATERIALIZED (
    SELECT n.sha256, o.first_post_seq, o.first_position, o.width, o.height
    FROM near n
    CROSS JOIN LATERAL (
        SELECT first_post_seq, first_position, width, height FROM media_objects
        WHERE tenant_id = :tenant_id AND sha256 = n.sha256
          AND (first_post_seq, first_position, sha256) < (:before_seq, :before_position, :before_sha256)
        LIMIT 1
    ) o
    LEFT JOIN LATERAL (
        SELECT method FROM vision_results
        WHERE tenant_id = :tenant_id AND sha256 = n.sha256 AND provider = :provider AND model = :model
          AND schema_version = :schema_version AND fingerprint = :fingerprint
        LIMIT 1
    ) r ON true
    WHERE coalesce(r.method, 'new') = 'new'
    ORDER BY n.distance_bits, o.first_post_seq, o.first_position, n.sha256
    LIMIT :row_limit
)
SELECT e.*, h.phash, h.phash256, h.thumbnail, r.result
FROM earliest e
JOIN phash_index h ON h.tenant_id = :tenant_id AND h.sha256 = e.sha256 AND h.algorithm = :algorithm
LEFT JOIN vision_results r ON r.tenant_id = :tenant_id AND r.sha256 = e.sha256 AND r.provider = :provider
                          AND r.model = :model AND r.schema_version = :schema_version
                          AND r.fingerprint = :fingerprint;

-- name: record_result(tenant_id, sha256, provider, model, schema_version, fingerprint, status, method, reason, error, donor_sha256, distance_bits, result, provenance, s3_key, s3_bytes, tokens_used, cost_microunits, analyzed_at)!
-- Writes a result; the newest one of a key stands. Its picture counts as used; for one that was removed meanwhile nothing
-- is written.
WITH used AS (
    UPDATE media_objects SET last_used_at = now() WHERE tenant_id = :tenant_id AND sha256 = :sha256
    RETURNING tenant_id, sha256
)
INSERT INTO vision_results
    (tenant_id, sha256, provider, model, schema_version, fingerprint, status, method, reason, error, donor_sha256,
     distance_bits, result, provenance, s3_key, s3_bytes, tokens_used, cost_microunits, analyzed_at)
SELECT
    tenant_id, sha256, :provider, :model, :schema_version, :fingerprint, :status, :method, :reason, :error,
    :donor_sha256, :distance_bits, :result, :provenance, :s3_key, :s3_bytes, :tokens_used, :cost_microunits,
    :analyzed_at
FROM used
ON CONFLICT (tenant_id, sha256, provider, model, schema_version) DO UPDATE SET
    fingerprint = excluded.fingerprint, status = excluded.status, method = excluded.method, reason = excluded.reason,
    error = excluded.error, donor_sha256 = excluded.donor_sha256, distance_bits = excluded.distance_bits,
    result = excluded.result, provenance = excluded.provenance, s3_key = excluded.s3_key,
    s3_bytes = excluded.s3_bytes, s3_evicted_at = NULL, tokens_used = excluded.tokens_used,
    cost_microunits = excluded.cost_microunits, analyzed_at = excluded.analyzed_at;

-- name: is_analysed(tenant_id, sha256, provider, model, schema_version, fingerprint)$
-- Whether a picture has a result, or an error, of this provider at this fingerprint.
SELECT EXISTS (
    SELECT FROM vision_results
    WHERE tenant_id = :tenant_id AND sha256 = :sha256 AND provider = :provider AND model = :model
      AND schema_version = :schema_version AND fingerprint = :fingerprint);
