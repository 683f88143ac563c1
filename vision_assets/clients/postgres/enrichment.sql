-- name: unenriched(tenant_id, provider, model, schema_version, aggregation_version, after_seq, row_limit, again, no_room)
-- Posts of one tenant with pictures whose states or results are not those that the row was made of, by seq. The results
-- themselves are read only of the posts that are chosen. That the clean-up removed a result from S3 is no change. Of a
-- picture without a result, what was decided about it tells why. An album whose summary had no room comes if it is asked
-- for again.
WITH changed AS MATERIALIZED (
    SELECT p.id, p.seq, p.grouped_id, input.params_hash
    FROM posts p
    CROSS JOIN LATERAL (
        SELECT md5(concat_ws('|', :aggregation_version::text, p.grouped_id, string_agg(
                   concat_ws('/', m.position, m.state, m.reason, m.sha256, r.fingerprint, r.status, r.method,
                             r.donor_sha256, num_nonnulls(r.s3_key, r.s3_evicted_at) > 0, r.reason, d.reason),
                   '|' ORDER BY m.position))) AS params_hash
        FROM post_media m
        LEFT JOIN vision_results r ON r.tenant_id = m.tenant_id AND r.sha256 = m.sha256 AND r.provider = :provider
                                  AND r.model = :model AND r.schema_version = :schema_version
        LEFT JOIN LATERAL (
            SELECT reason FROM vision_decisions
            WHERE tenant_id = m.tenant_id AND sha256 = m.sha256 AND provider = :provider AND model = :model
              AND r.sha256 IS NULL
            LIMIT 1
        ) d ON true
        WHERE m.tenant_id = p.tenant_id AND m.post_id = p.id
        HAVING bool_or(m.state <> 'pending')
    ) input
    LEFT JOIN post_enrichment e ON e.post_id = p.id AND e.kind = 'vision' AND e.tenant_id = p.tenant_id
    WHERE p.tenant_id = :tenant_id AND p.seq > :after_seq AND e.params_hash IS DISTINCT FROM input.params_hash
      AND (:again::boolean OR e.params_hash IS DISTINCT FROM input.params_hash || :no_room::text)
    ORDER BY p.seq
    LIMIT :row_limit
)
SELECT c.id AS post_id, c.seq, c.grouped_id, c.params_hash,
       jsonb_agg(jsonb_build_object(
           'position', m.position, 'state', m.state, 'sha256', m.sha256, 'result', r.result, 's3_key', r.s3_key,
           'reason', coalesce(r.reason, m.reason, d.reason, CASE WHEN r.sha256 IS NULL THEN 'not_analysed' END)
       ) ORDER BY m.position) AS pictures
FROM changed c
JOIN post_media m ON m.tenant_id = :tenant_id AND m.post_id = c.id
LEFT JOIN vision_results r ON r.tenant_id = :tenant_id AND r.sha256 = m.sha256 AND r.provider = :provider
                          AND r.model = :model AND r.schema_version = :schema_version
LEFT JOIN LATERAL (
    SELECT reason FROM vision_decisions
    WHERE tenant_id = :tenant_id AND sha256 = m.sha256 AND provider = :provider AND model = :model AND r.sha256 IS NULL
    LIMIT 1
) d ON true
GROUP BY c.id, c.seq, c.grouped_id, c.params_hash
ORDER BY c.seq;

-- name: record(tenant_id, post_ids, providers, params_hashes, data, statuses, errors)!
-- Writes enriched posts; the newest row of a post stands. One that was deleted meanwhile is left out.
INSERT INTO post_enrichment (post_id, kind, tenant_id, provider, params_hash, data, status, error)
SELECT p.id, 'vision', p.tenant_id, provider, params_hash, data, status, error
FROM unnest(:post_ids::uuid[], :providers::text[], :params_hashes::text[], :data::jsonb[], :statuses::text[],
            :errors::text[]) AS enriched (post_id, provider, params_hash, data, status, error)
JOIN posts p ON p.tenant_id = :tenant_id AND p.id = enriched.post_id
ORDER BY p.id
FOR KEY SHARE OF p
ON CONFLICT (post_id, kind) DO UPDATE SET
    provider = excluded.provider, params_hash = excluded.params_hash, data = excluded.data, status = excluded.status,
    error = excluded.error, updated_at = now();
