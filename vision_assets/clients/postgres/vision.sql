-- name: count_unanalysed(tenant_id, provider, model, schema_version, fingerprint)$
-- Pictures of one tenant without a result of this provider at this fingerprint.
SELECT count(*) FROM media_objects o
WHERE o.tenant_id = :tenant_id AND NOT EXISTS (
    SELECT FROM vision_results r
    WHERE r.tenant_id = o.tenant_id AND r.sha256 = o.sha256 AND r.provider = :provider AND r.model = :model
      AND r.schema_version = :schema_version AND r.fingerprint = :fingerprint);

-- name: unanalysed(algorithm, provider, model, schema_version, fingerprint, tenant_id, after_seq, after_position, after_sha256, row_limit)
-- Pictures of one tenant without a result of this provider at this fingerprint, by first appearance.
SELECT o.sha256, o.mime, o.s3_key, o.first_post_seq, o.first_position, o.width, o.height,
       h.phash, h.phash256, h.thumbnail
FROM media_objects o
LEFT JOIN phash_index h ON h.tenant_id = o.tenant_id AND h.sha256 = o.sha256
                       AND h.algorithm = :algorithm AND h.flags = '{}'
LEFT JOIN vision_results r ON r.tenant_id = o.tenant_id AND r.sha256 = o.sha256 AND r.provider = :provider
                          AND r.model = :model AND r.schema_version = :schema_version
                          AND r.fingerprint = :fingerprint
WHERE o.tenant_id = :tenant_id AND r.sha256 IS NULL
  AND (o.first_post_seq, o.first_position, o.sha256) > (:after_seq, :after_position, :after_sha256)
ORDER BY o.first_post_seq, o.first_position, o.sha256
LIMIT :row_limit;

-- name: earlier_neighbours(tenant_id, chunk0, chunk1, chunk2, chunk3, algorithm, provider, model, schema_version, fingerprint, phash, radius_bits, before_seq, before_position, before_sha256)
-- Pictures of one tenant whose hash is within the radius and that appeared earlier; the tenant leads every index used.
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
)
SELECT o.sha256, o.first_post_seq, o.first_position, o.width, o.height, h.phash, h.phash256, h.thumbnail, r.result
FROM candidates c
JOIN phash_index h ON h.tenant_id = :tenant_id AND h.sha256 = c.sha256 AND h.algorithm = :algorithm
JOIN media_objects o ON o.tenant_id = :tenant_id AND o.sha256 = c.sha256
LEFT JOIN vision_results r ON r.tenant_id = :tenant_id AND r.sha256 = c.sha256 AND r.provider = :provider
                          AND r.model = :model AND r.schema_version = :schema_version
                          AND r.fingerprint = :fingerprint
WHERE bit_count((c.phash # :phash::bigint)::bit(64)) <= :radius_bits
  AND (o.first_post_seq, o.first_position, o.sha256) < (:before_seq, :before_position, :before_sha256);

-- name: record_result(tenant_id, sha256, provider, model, schema_version, fingerprint, status, method, reason, error, donor_sha256, distance_bits, result, provenance, s3_key, s3_bytes, tokens_used, cost_microunits, analyzed_at)!
-- Writes a result; the newest one of a key stands.
INSERT INTO vision_results
    (tenant_id, sha256, provider, model, schema_version, fingerprint, status, method, reason, error, donor_sha256,
     distance_bits, result, provenance, s3_key, s3_bytes, tokens_used, cost_microunits, analyzed_at)
VALUES
    (:tenant_id, :sha256, :provider, :model, :schema_version, :fingerprint, :status, :method, :reason, :error,
     :donor_sha256, :distance_bits, :result, :provenance, :s3_key, :s3_bytes, :tokens_used, :cost_microunits,
     :analyzed_at)
ON CONFLICT (tenant_id, sha256, provider, model, schema_version) DO UPDATE SET
    fingerprint = excluded.fingerprint, status = excluded.status, method = excluded.method, reason = excluded.reason,
    error = excluded.error, donor_sha256 = excluded.donor_sha256, distance_bits = excluded.distance_bits,
    result = excluded.result, provenance = excluded.provenance, s3_key = excluded.s3_key,
    s3_bytes = excluded.s3_bytes, tokens_used = excluded.tokens_used, cost_microunits = excluded.cost_microunits,
    analyzed_at = excluded.analyzed_at;
