-- name: record_reuse(tenant_id, provider, model, sha256s, candidate_sha256s, distances_bits, distances_256_bits, aspect_differences, cell_differences, strictnesses, verdicts, reasons)!
-- Writes what was decided about candidates, with the lower quality of the two hashes; of each picture the newest stand, and
-- all that were there before go. For a picture that was removed meanwhile nothing is written.
WITH decided AS (
    SELECT d.*, least(own.quality, other.quality) AS quality
    FROM unnest(:sha256s::text[], :candidate_sha256s::text[], :distances_bits::smallint[],
                :distances_256_bits::smallint[], :aspect_differences::real[], :cell_differences::real[],
                :strictnesses::text[], :verdicts::text[], :reasons::text[])
         AS d (sha256, candidate_sha256, distance_bits, distance_256_bits, aspect_difference, cell_difference,
               strictness, verdict, reason)
    JOIN media_objects o ON o.tenant_id = :tenant_id AND o.sha256 = d.sha256
    LEFT JOIN phash_index own ON own.tenant_id = :tenant_id AND own.sha256 = d.sha256
    LEFT JOIN phash_index other ON other.tenant_id = :tenant_id AND other.sha256 = d.candidate_sha256
), outdated AS (
    DELETE FROM reuse_decisions r
    WHERE r.tenant_id = :tenant_id AND r.sha256 = ANY(:sha256s::text[]) AND r.provider = :provider AND r.model = :model
      AND NOT EXISTS (SELECT FROM decided d WHERE d.sha256 = r.sha256 AND d.candidate_sha256 = r.candidate_sha256)
)
INSERT INTO reuse_decisions
    (tenant_id, sha256, candidate_sha256, provider, model, distance_bits, distance_256_bits, aspect_difference,
     cell_difference, quality, strictness, verdict, reason)
SELECT :tenant_id, sha256, candidate_sha256, :provider, :model, distance_bits, distance_256_bits, aspect_difference,
       cell_difference, quality, strictness, verdict, reason
FROM decided
ORDER BY sha256, candidate_sha256
ON CONFLICT (tenant_id, sha256, provider, model, candidate_sha256) DO UPDATE SET
    distance_bits = excluded.distance_bits, distance_256_bits = excluded.distance_256_bits,
    aspect_difference = excluded.aspect_difference, cell_difference = excluded.cell_difference,
    quality = excluded.quality, strictness = excluded.strictness, verdict = excluded.verdict, reason = excluded.reason,
    decided_at = now();

-- name: lock_pictures(tenant_id, sha256s)!
-- Keeps these pictures from getting a result until the end of the transaction: that is written under the same lock. Whoever
-- writes about several takes them in this order, so that two never wait for each other.
SELECT FROM media_objects WHERE tenant_id = :tenant_id AND sha256 = ANY(:sha256s::text[])
ORDER BY sha256
FOR NO KEY UPDATE;

-- name: reusing(tenant_id, sha256s, provider, model, schema_version, fingerprint)
-- Which of these pictures have another's result.
SELECT sha256 FROM vision_results
WHERE tenant_id = :tenant_id AND sha256 = ANY(:sha256s::text[]) AND provider = :provider AND model = :model
  AND schema_version = :schema_version AND fingerprint = :fingerprint AND method = 'near_duplicate';

-- name: denials(tenant_id, algorithm)
-- Pictures of one tenant that are never reused, with their hashes as they are now, or as they were when they went.
SELECT d.sha256, d.origin, CASE WHEN coalesce(h.algorithm, d.algorithm) = :algorithm THEN coalesce(h.phash, d.phash) END
       AS phash
FROM reuse_denials d
LEFT JOIN phash_index h ON h.tenant_id = d.tenant_id AND h.sha256 = d.sha256 AND h.algorithm = :algorithm
                       AND h.flags = '{}'
WHERE d.tenant_id = :tenant_id;

-- name: quarantine(tenant_id, algorithm, sha256s, reasons)!
-- Denies pictures that share their hash with too many others, unless they are denied already.
INSERT INTO reuse_denials (tenant_id, sha256, origin, reason, algorithm, phash)
SELECT :tenant_id, q.sha256, 'quarantine', q.reason, h.algorithm, h.phash
FROM unnest(:sha256s::text[], :reasons::text[]) AS q (sha256, reason)
LEFT JOIN phash_index h ON h.tenant_id = :tenant_id AND h.sha256 = q.sha256 AND h.algorithm = :algorithm
                       AND h.flags = '{}'
ORDER BY q.sha256
ON CONFLICT DO NOTHING;

-- name: deny(tenant_id, algorithm, sha256, reason)!
-- Denies a picture; an operator's word replaces a quarantine, and an earlier one.
INSERT INTO reuse_denials (tenant_id, sha256, origin, reason, algorithm, phash)
SELECT :tenant_id, denied.sha256, 'operator', :reason, h.algorithm, h.phash
FROM (VALUES (:sha256::text)) AS denied (sha256)
LEFT JOIN phash_index h ON h.tenant_id = :tenant_id AND h.sha256 = denied.sha256 AND h.algorithm = :algorithm
                       AND h.flags = '{}'
ON CONFLICT (tenant_id, sha256) DO UPDATE SET
    origin = excluded.origin, reason = excluded.reason, created_at = now(),
    algorithm = coalesce(excluded.algorithm, reuse_denials.algorithm),
    phash = coalesce(excluded.phash, reuse_denials.phash);

-- name: allow(tenant_id, sha256)$
-- Takes a denial back, and tells whether there was one.
DELETE FROM reuse_denials WHERE tenant_id = :tenant_id AND sha256 = :sha256 RETURNING true;

-- name: list_denials(tenant_id)
-- Denials with their tenants' names, of one tenant or of all active ones, the newest first.
SELECT t.name AS tenant, d.sha256, d.origin, d.reason, d.created_at
FROM reuse_denials d
JOIN tenants t ON t.id = d.tenant_id AND t.active
WHERE coalesce(d.tenant_id = :tenant_id::uuid, true)
ORDER BY t.name, d.created_at DESC, d.sha256;

-- name: take_back_denied(tenant_id, algorithm)$
-- Makes results to do again that were taken from a picture which an operator has denied, or by one: whatever has exactly
-- its hash is denied with it. Their rows hold no answer from then on, so that nothing wrong is shown meanwhile, and are of
-- no question, so that what lies in S3 is no answer either. Tells of how many pictures.
WITH hashes AS MATERIALIZED (
    SELECT d.sha256, coalesce(h.phash, d.phash) AS phash, coalesce(h.algorithm, d.algorithm) AS algorithm
    FROM reuse_denials d
    LEFT JOIN phash_index h ON h.tenant_id = d.tenant_id AND h.sha256 = d.sha256 AND h.algorithm = :algorithm
                           AND h.flags = '{}'
    WHERE d.tenant_id = :tenant_id AND d.origin = 'operator'
), denied AS MATERIALIZED (
    SELECT sha256 FROM hashes
    UNION
    SELECT e.sha256
    FROM hashes d
    JOIN phash_index e ON e.tenant_id = :tenant_id AND e.flags = '{}' AND e.algorithm = d.algorithm
                      AND e.phash = d.phash
), taken AS (
    SELECT r.sha256, r.provider, r.model, r.schema_version
    FROM denied d
    JOIN vision_results r ON r.tenant_id = :tenant_id AND r.donor_sha256 = d.sha256 AND r.method = 'near_duplicate'
    UNION
    SELECT r.sha256, r.provider, r.model, r.schema_version
    FROM denied d
    JOIN vision_results r ON r.tenant_id = :tenant_id AND r.sha256 = d.sha256 AND r.method = 'near_duplicate'
), locked AS MATERIALIZED (
    SELECT sha256 FROM media_objects
    WHERE tenant_id = :tenant_id AND sha256 IN (SELECT sha256 FROM taken)
    ORDER BY sha256
    FOR NO KEY UPDATE
), undone AS (
    UPDATE vision_results r SET
        fingerprint = '', status = 'skipped', method = 'skipped', reason = 'reuse_denied', donor_sha256 = NULL,
        distance_bits = NULL, result = NULL, s3_key = NULL, s3_bytes = NULL, s3_evicted_at = NULL
    FROM locked l
    JOIN taken t USING (sha256)
    WHERE r.tenant_id = :tenant_id AND r.method = 'near_duplicate'
      AND (r.sha256, r.provider, r.model, r.schema_version) = (t.sha256, t.provider, t.model, t.schema_version)
    RETURNING r.sha256, r.provider, r.model
), decided AS (
    UPDATE reuse_decisions d SET verdict = 'refused', reason = 'denied', decided_at = now()
    FROM undone u
    WHERE d.tenant_id = :tenant_id AND (d.sha256, d.provider, d.model) = (u.sha256, u.provider, u.model)
      AND d.verdict = 'reused'
)
SELECT count(DISTINCT sha256) FROM undone;
