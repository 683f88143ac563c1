-- name: beginning_with(tenant_id, first, beyond, row_limit)
-- Pictures of one tenant whose hash lies in a range, stored ones and denied ones that are gone.
SELECT sha256 FROM media_objects WHERE tenant_id = :tenant_id AND sha256 >= :first AND sha256 < :beyond
UNION
SELECT sha256 FROM reuse_denials WHERE tenant_id = :tenant_id AND sha256 >= :first AND sha256 < :beyond
ORDER BY sha256
LIMIT :row_limit;

-- name: picture(tenant_id, sha256)^
-- One stored picture of one tenant with its hash, and how many took its result.
SELECT o.sha256, o.mime, o.bytes, o.width, o.height, o.s3_key, o.first_seen_at, h.algorithm, h.phash, h.quality, h.flags,
       (SELECT count(*) FROM vision_results r
        WHERE r.tenant_id = o.tenant_id AND r.donor_sha256 = o.sha256 AND r.method = 'near_duplicate') AS taken_by
FROM media_objects o
LEFT JOIN phash_index h ON h.tenant_id = o.tenant_id AND h.sha256 = o.sha256
WHERE o.tenant_id = :tenant_id AND o.sha256 = :sha256;

-- name: results(tenant_id, sha256)
-- What one picture of one tenant has got, of each provider and model.
SELECT provider, model, status, method, reason, donor_sha256, result ->> 'classification' AS kind, tokens_used, analyzed_at
FROM vision_results
WHERE tenant_id = :tenant_id AND sha256 = :sha256
ORDER BY analyzed_at DESC, provider, model;

-- name: decisions(tenant_id, sha256)
-- What was decided about candidates for one picture's result, with where they lie: the donor, then the nearest.
SELECT d.candidate_sha256, d.provider, d.model, d.distance_bits, d.distance_256_bits, d.aspect_difference,
       d.cell_difference, d.quality, d.strictness, d.verdict, d.reason, d.decided_at, o.s3_key, o.width, o.height
FROM reuse_decisions d
LEFT JOIN media_objects o ON o.tenant_id = d.tenant_id AND o.sha256 = d.candidate_sha256
WHERE d.tenant_id = :tenant_id AND d.sha256 = :sha256
ORDER BY d.provider, d.model, d.verdict DESC, d.distance_bits, d.cell_difference, d.candidate_sha256;
