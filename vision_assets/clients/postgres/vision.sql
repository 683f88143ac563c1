-- name: count_unanalysed(tenant_id, provider, model, schema_version, fingerprint, rules, now, open_reasons)$
-- Pictures of one tenant that are to do, by the conditions of `unanalysed` for all of them.
SELECT count(*) FROM media_objects o
WHERE o.tenant_id = :tenant_id
  AND NOT EXISTS (
    SELECT FROM vision_results r
    WHERE r.tenant_id = o.tenant_id AND r.sha256 = o.sha256 AND r.provider = :provider AND r.model = :model
      AND r.schema_version = :schema_version AND r.fingerprint = :fingerprint AND r.method <> 'fallback'
      AND (r.s3_key IS NOT NULL OR r.s3_evicted_at IS NOT NULL OR r.result IS NULL))
  AND NOT EXISTS (
    SELECT FROM vision_decisions d
    WHERE d.tenant_id = o.tenant_id AND d.sha256 = o.sha256 AND d.provider = :provider AND d.model = :model
      AND d.rules = :rules AND (d.due_at IS NULL OR d.due_at > :now) AND d.reason <> ALL(:open_reasons::text[]));

-- name: unanalysed(tenant_id, algorithm, provider, model, schema_version, fingerprint, rules, now, open_reasons, part, after_seq, after_position, after_sha256, row_limit, post_limit, text_characters)
-- Pictures of one tenant without a result of this provider at this fingerprint in S3, where the clean-up has not
-- removed it on purpose and no decision under these rules stands, by first appearance; with the newest posts that show
-- them, and those posts' pictures; `seen` changes with each reference and each change of a post. Of these, the part that
-- is asked for. Results, decisions and hashes are looked up row by row along the index of that order, so a page costs what
-- it returns; where nothing waits, nothing is due, and no row is read.
WITH page AS MATERIALIZED (
    SELECT o.sha256, o.mime, o.s3_key, o.first_post_seq, o.first_position, o.width, o.height, o.measured
    FROM media_objects o
    WHERE o.tenant_id = :tenant_id
      AND (o.first_post_seq, o.first_position, o.sha256) > (:after_seq, :after_position, :after_sha256)
      AND NOT EXISTS (
        SELECT FROM vision_results r
        WHERE r.tenant_id = o.tenant_id AND r.sha256 = o.sha256 AND r.provider = :provider AND r.model = :model
          AND r.schema_version = :schema_version AND r.fingerprint = :fingerprint AND r.method <> 'fallback'
          AND (r.s3_key IS NOT NULL OR r.s3_evicted_at IS NOT NULL OR r.result IS NULL
            OR :part::text <> 'all' AND r.reason IN ('bucket_full', 'tenant_limit', 'type_limit')))
      AND NOT EXISTS (
        SELECT FROM vision_decisions d
        WHERE d.tenant_id = o.tenant_id AND d.sha256 = o.sha256 AND d.provider = :provider AND d.model = :model
          AND d.rules = :rules AND (d.due_at IS NULL OR d.due_at > :now) AND d.reason <> ALL(:open_reasons::text[]))
      AND CASE WHEN :part::text = 'all' THEN true ELSE (:part::text = 'new') = (
        SELECT count(*) = 0 FROM vision_results r
        WHERE r.tenant_id = o.tenant_id AND r.sha256 = o.sha256 AND r.method NOT IN ('fallback', 'skipped')
          AND (r.provider, r.model, r.schema_version, r.fingerprint)
              <> (:provider, :model, :schema_version, :fingerprint)) END
      AND CASE WHEN :part::text <> 'due' THEN true ELSE (
        SELECT count(*) > 0 FROM vision_decisions d
        WHERE d.tenant_id = o.tenant_id AND d.sha256 = o.sha256 AND d.provider = :provider AND d.model = :model
          AND d.due_at IS NOT NULL) END
      AND (:part::text <> 'due' OR EXISTS (
        SELECT FROM vision_decisions d WHERE d.tenant_id = :tenant_id AND d.due_at IS NOT NULL))
    ORDER BY o.first_post_seq, o.first_position, o.sha256
    LIMIT :row_limit
)
SELECT o.*, h.phash, h.phash256, h.thumbnail, r.kept, r.own_text, coalesce(r.has_stopgap, false) AS has_stopgap,
       coalesce(d.attempts, 0) AS attempts, coalesce(seen.version, '') AS seen, coalesce(shown.posts, '[]') AS posts
FROM page o
LEFT JOIN LATERAL (
    SELECT phash, phash256, thumbnail FROM phash_index
    WHERE tenant_id = :tenant_id AND sha256 = o.sha256 AND algorithm = :algorithm AND flags = '{}'
    LIMIT 1
) h ON true
LEFT JOIN LATERAL (
    SELECT CASE WHEN method <> 'fallback' AND fingerprint = :fingerprint THEN result END AS kept,
           result IS NOT NULL AND (method = 'fallback' OR fingerprint <> :fingerprint) AS has_stopgap,
           CASE WHEN method = 'fallback' OR fingerprint <> :fingerprint AND method = 'new'
                THEN result #>> '{ocr,text}' END AS own_text
    FROM vision_results
    WHERE tenant_id = :tenant_id AND sha256 = o.sha256 AND provider = :provider AND model = :model
      AND schema_version = :schema_version
    LIMIT 1
) r ON true
LEFT JOIN LATERAL (
    SELECT attempts FROM vision_decisions
    WHERE tenant_id = :tenant_id AND sha256 = o.sha256 AND provider = :provider AND model = :model
    LIMIT 1
) d ON true
CROSS JOIN LATERAL (
    SELECT md5(string_agg(concat_ws('/', m.post_id, m.position, p.xmin), '|' ORDER BY m.post_id, m.position)) AS version
    FROM post_media m
    CROSS JOIN LATERAL (SELECT xmin FROM posts WHERE tenant_id = :tenant_id AND id = m.post_id LIMIT 1) p
    WHERE m.tenant_id = :tenant_id AND m.sha256 = o.sha256
) seen
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object(
               'channel_username', c.username, 'text', left(p.text, :text_characters::int), 'media', crowd.media
           ) ORDER BY p.seq) AS posts
    FROM (
        SELECT p.*
        FROM (SELECT DISTINCT post_id FROM post_media WHERE tenant_id = :tenant_id AND sha256 = o.sha256) m
        CROSS JOIN LATERAL (
            SELECT id, channel_id, text, seq FROM posts WHERE tenant_id = :tenant_id AND id = m.post_id LIMIT 1
        ) p
        ORDER BY p.seq DESC
        LIMIT :post_limit
    ) p
    JOIN channels c ON c.tenant_id = :tenant_id AND c.id = p.channel_id
    CROSS JOIN LATERAL (
        SELECT jsonb_agg(jsonb_build_object(
                   'sha256', m.sha256, 'mime', s.mime, 'bytes', s.bytes, 'width', s.width, 'height', s.height,
                   'position', m.position)) AS media
        FROM post_media m
        JOIN media_objects s ON s.tenant_id = :tenant_id AND s.sha256 = m.sha256
        WHERE m.tenant_id = :tenant_id AND m.post_id = p.id
    ) crowd
) shown ON true
ORDER BY o.first_post_seq, o.first_position, o.sha256;

-- name: record_result(tenant_id, sha256, provider, model, schema_version, fingerprint, status, method, reason, error, donor_sha256, distance_bits, result, provenance, s3_key, s3_bytes, tokens_used, cost_microunits, analyzed_at)!
-- Writes a result, or that there never is one; the newest one of a key stands. Its picture counts as used, what was
-- decided about it ends, and so does the dead letter of one that went through after all; one that is not another's ends
-- that it was. For a picture that was removed meanwhile nothing is written.
WITH used AS (
    UPDATE media_objects SET last_used_at = now() WHERE tenant_id = :tenant_id AND sha256 = :sha256
    RETURNING tenant_id, sha256
), undecided AS (
    DELETE FROM vision_decisions
    WHERE tenant_id = :tenant_id AND sha256 = :sha256 AND provider = :provider AND model = :model
), own AS (
    DELETE FROM reuse_decisions
    WHERE tenant_id = :tenant_id AND sha256 = :sha256 AND provider = :provider AND model = :model
      AND verdict = 'reused' AND :method <> 'near_duplicate'
), resolved AS (
    UPDATE dead_letters SET resolved_at = now()
    WHERE tenant_id = :tenant_id AND stage = 'vision_results' AND item = :sha256 AND resolved_at IS NULL
      AND :status <> 'error'
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

-- name: record_fallback(tenant_id, sha256, provider, model, schema_version, fingerprint, status, reason, result, provenance, analyzed_at)!
-- Writes what is known of a picture for want of the provider's answer. No answer of the provider is ever overwritten, and
-- no refusal of the present question.
INSERT INTO vision_results
    (tenant_id, sha256, provider, model, schema_version, fingerprint, status, method, reason, result, provenance,
     analyzed_at)
SELECT tenant_id, sha256, :provider, :model, :schema_version, :fingerprint, :status, 'fallback', :reason, :result,
       :provenance, :analyzed_at
FROM media_objects WHERE tenant_id = :tenant_id AND sha256 = :sha256
ON CONFLICT (tenant_id, sha256, provider, model, schema_version) DO UPDATE SET
    fingerprint = excluded.fingerprint, status = excluded.status, method = excluded.method, reason = excluded.reason,
    error = NULL, result = excluded.result, provenance = excluded.provenance, tokens_used = 0, cost_microunits = 0,
    analyzed_at = excluded.analyzed_at
WHERE vision_results.method = 'fallback'
   OR vision_results.result IS NULL AND vision_results.fingerprint <> excluded.fingerprint;

-- name: record_decisions(tenant_id, provider, model, schema_version, fingerprint, rules, sha256s, verdicts, reasons, messages, due_at, attempts, seen)$
-- Writes decisions; the newest one of a picture stands. One whose picture a further post shows since, or whose posts were
-- written since, is not written: the picture stays to do. Nor is one whose picture has got its result since. Tells how many
-- were written.
WITH written AS (
INSERT INTO vision_decisions
    (tenant_id, sha256, provider, model, verdict, reason, message, rules, due_at, attempts)
SELECT :tenant_id, o.sha256, :provider, :model, d.verdict, d.reason, d.message, :rules, d.due_at, d.attempts
FROM unnest(:sha256s::text[], :verdicts::text[], :reasons::text[], :messages::text[], :due_at::timestamptz[],
            :attempts::int[], :seen::text[])
     AS d (sha256, verdict, reason, message, due_at, attempts, seen)
JOIN media_objects o ON o.tenant_id = :tenant_id AND o.sha256 = d.sha256
WHERE d.seen = (
    SELECT coalesce(
        md5(string_agg(concat_ws('/', m.post_id, m.position, p.xmin), '|' ORDER BY m.post_id, m.position)), '')
    FROM post_media m
    CROSS JOIN LATERAL (SELECT xmin FROM posts WHERE tenant_id = :tenant_id AND id = m.post_id LIMIT 1) p
    WHERE m.tenant_id = :tenant_id AND m.sha256 = d.sha256)
  AND NOT EXISTS (
    SELECT FROM vision_results r
    WHERE r.tenant_id = :tenant_id AND r.sha256 = d.sha256 AND r.provider = :provider AND r.model = :model
      AND r.schema_version = :schema_version AND r.fingerprint = :fingerprint AND r.method <> 'fallback')
ORDER BY o.sha256
ON CONFLICT (tenant_id, sha256, provider, model) DO UPDATE SET
    verdict = excluded.verdict, reason = excluded.reason, message = excluded.message, rules = excluded.rules,
    due_at = excluded.due_at, attempts = excluded.attempts, decided_at = now()
RETURNING sha256
)
SELECT count(*) FROM written;

-- name: forget_decisions(tenant_id, provider, model, schema_version, fingerprint, now)!
-- Takes back what was decided about calls to another provider or model than the tenant has now, and what is due although
-- its picture has a result, as when a prompt is changed and changed back. Reads all decisions of the tenant: once a pass.
DELETE FROM vision_decisions d
WHERE d.tenant_id = :tenant_id
  AND ((d.provider, d.model) <> (:provider, :model)
    OR d.due_at <= :now AND EXISTS (
        SELECT FROM vision_results r
        WHERE r.tenant_id = :tenant_id AND r.sha256 = d.sha256 AND r.provider = :provider AND r.model = :model
          AND r.schema_version = :schema_version AND r.fingerprint = :fingerprint AND r.method <> 'fallback'));

-- name: is_analysed(tenant_id, sha256, provider, model, schema_version, fingerprint)$
-- Whether a picture has a result, or an error, of this provider at this fingerprint.
SELECT EXISTS (
    SELECT FROM vision_results
    WHERE tenant_id = :tenant_id AND sha256 = :sha256 AND provider = :provider AND model = :model
      AND schema_version = :schema_version AND fingerprint = :fingerprint AND method <> 'fallback');

-- name: record_audit(tenant_id, sha256, donor_sha256, provider, model, differences)!
-- Writes what an audit of reuse has found; for a picture that was removed meanwhile nothing.
INSERT INTO reuse_audits (tenant_id, sha256, donor_sha256, provider, model, differences)
SELECT tenant_id, sha256, :donor_sha256, :provider, :model, :differences
FROM media_objects WHERE tenant_id = :tenant_id AND sha256 = :sha256
ON CONFLICT (tenant_id, sha256, provider, model) DO UPDATE SET
    donor_sha256 = excluded.donor_sha256, differences = excluded.differences, audited_at = now();

-- name: audits(tenant_id, provider, model, since)^
-- How many audits found the same, how many did not, and how often in what.
SELECT count(*) FILTER (WHERE differences = '{}') AS agreeing,
       count(*) FILTER (WHERE differences <> '{}') AS differing,
       (SELECT coalesce(jsonb_object_agg(d.difference, d.times), '{}')
        FROM (SELECT difference, count(*) AS times
              FROM reuse_audits a CROSS JOIN unnest(a.differences) AS one (difference)
              WHERE a.tenant_id = :tenant_id AND a.provider = :provider AND a.model = :model AND a.audited_at >= :since
              GROUP BY difference) d) AS differences
FROM reuse_audits
WHERE tenant_id = :tenant_id AND provider = :provider AND model = :model AND audited_at >= :since;
