-- name: close_gone(tenant_id, stage, reason, item, before, row_limit)$
-- Closes open dead letters of references and pictures that are not there any more, and tells how many. Whoever deletes
-- them, with their posts or as a clean-up, need not know of letters.
WITH gone AS MATERIALIZED (
    SELECT d.id FROM dead_letters d
    WHERE d.resolved_at IS NULL
      AND (:tenant_id::uuid IS NULL OR d.tenant_id = :tenant_id)
      AND (:stage::text IS NULL OR d.stage = :stage)
      AND (:reason::text IS NULL OR d.reason = :reason)
      AND (:item::text IS NULL OR d.item = :item)
      AND (:before::timestamptz IS NULL OR d.last_at < :before)
      AND CASE
          WHEN d.stage = 'media_objects' THEN NOT EXISTS (
              SELECT FROM post_media m
              WHERE m.tenant_id = d.tenant_id AND m.post_id = split_part(d.item, '/', 1)::uuid
                AND m.position = split_part(d.item, '/', 2)::smallint)
          WHEN d.stage IN ('phash_index', 'vision_results') THEN NOT EXISTS (
              SELECT FROM media_objects o WHERE o.tenant_id = d.tenant_id AND o.sha256 = d.item)
          ELSE false END
    ORDER BY d.id
    LIMIT :row_limit
    FOR UPDATE OF d SKIP LOCKED
), closed AS (
    UPDATE dead_letters d SET resolved_at = now() FROM gone WHERE d.id = gone.id RETURNING d.id
)
SELECT count(*) FROM closed;

-- name: reopen(tenant_id, stage, reason, item, stages, passing_stages, passing_reasons, max_retries, before, charged_attempts, row_limit)
-- Makes items of open dead letters to do again, once each until they fail again, and counts that. Of a reference the
-- state goes; of a picture that could not be hashed the letter alone kept it out; of a result the error goes, and the
-- picture is due now: one more call, where calls were charged in vain before. Calls that ended without a trace are
-- explained by whoever asks. The passing reasons, if there are any, stand in pairs with their stages.
WITH chosen AS MATERIALIZED (
    SELECT d.id FROM dead_letters d
    JOIN tenants t ON t.id = d.tenant_id AND t.active
    WHERE d.resolved_at IS NULL AND d.reopened_at IS NULL AND d.stage = ANY(:stages::text[])
      AND (:tenant_id::uuid IS NULL OR d.tenant_id = :tenant_id)
      AND (:stage::text IS NULL OR d.stage = :stage)
      AND (:reason::text IS NULL OR d.reason = :reason)
      AND (:item::text IS NULL OR d.item = :item)
      AND (:passing_stages::text[] IS NULL
           OR (d.stage, d.reason) IN (SELECT * FROM unnest(:passing_stages::text[], :passing_reasons::text[]))
              AND d.retries < :max_retries AND d.last_at < :before)
    ORDER BY d.id
    LIMIT :row_limit
    FOR UPDATE OF d SKIP LOCKED
), letters AS (
    UPDATE dead_letters d SET reopened_at = now(), retries = d.retries + 1
    FROM chosen WHERE d.id = chosen.id
    RETURNING d.tenant_id, d.stage, d.item, d.reason
), refs AS (
    UPDATE post_media m SET state = 'pending', reason = NULL, error = NULL
    FROM (
        SELECT tenant_id, split_part(item, '/', 1) AS post_id, split_part(item, '/', 2) AS position
        FROM letters WHERE stage = 'media_objects'
    ) l
    WHERE m.tenant_id = l.tenant_id AND m.post_id = l.post_id::uuid AND m.position = l.position::smallint
      AND m.state <> 'stored'
), errors AS (
    DELETE FROM vision_results r USING letters l
    WHERE l.stage = 'vision_results' AND r.tenant_id = l.tenant_id AND r.sha256 = l.item AND r.status = 'error'
    RETURNING r.tenant_id, r.sha256, r.provider, r.model, r.reason
), due AS (
    INSERT INTO vision_decisions (tenant_id, sha256, provider, model, verdict, reason, message, rules, due_at, attempts)
    SELECT DISTINCT ON (tenant_id, sha256, provider, model)
           tenant_id, sha256, provider, model, 'defer', 'retried', 'It was given up, and is tried once more.', '', now(),
           CASE reason WHEN 'provider_failed' THEN :charged_attempts::int ELSE 0 END
    FROM errors
    ON CONFLICT DO NOTHING
), explained AS (
    UPDATE budget_holds h SET attempt = 0, subject = NULL
    FROM letters l
    WHERE l.stage = 'vision_results' AND l.reason = 'too_many_attempts'
      AND h.tenant_id = l.tenant_id AND h.expired AND starts_with(h.subject, l.item || '/')
)
SELECT tenant_id, stage, reason, count(*) AS items FROM letters
GROUP BY tenant_id, stage, reason
ORDER BY tenant_id, stage, reason;

-- name: open_letters(tenant_id, stage, reason)
-- Open dead letters of all tenants or one, summed up by stage and reason, with the newest message of each.
SELECT * FROM (
    SELECT DISTINCT ON (t.name, d.stage, d.reason)
           t.name AS tenant, d.stage, d.reason, count(*) OVER alike AS items, count(d.reopened_at) OVER alike AS reopened,
           max(d.retries) OVER alike AS retries, d.last_at, d.message
    FROM dead_letters d
    JOIN tenants t ON t.id = d.tenant_id
    WHERE d.resolved_at IS NULL AND (:tenant_id::uuid IS NULL OR d.tenant_id = :tenant_id)
      AND (:stage::text IS NULL OR d.stage = :stage) AND (:reason::text IS NULL OR d.reason = :reason)
    WINDOW alike AS (PARTITION BY t.name, d.stage, d.reason)
    ORDER BY t.name, d.stage, d.reason, d.last_at DESC, d.id DESC
) newest
ORDER BY tenant, stage, items DESC, reason;

-- name: open_items(tenant_id, stage, reason, row_limit)
-- Open dead letters of all tenants or one, the newest first.
SELECT t.name AS tenant, d.stage, d.reason, d.item, d.message, d.attempts, d.retries, d.last_at, d.reopened_at
FROM dead_letters d
JOIN tenants t ON t.id = d.tenant_id
WHERE d.resolved_at IS NULL AND (:tenant_id::uuid IS NULL OR d.tenant_id = :tenant_id)
  AND (:stage::text IS NULL OR d.stage = :stage) AND (:reason::text IS NULL OR d.reason = :reason)
ORDER BY d.last_at DESC, d.id DESC
LIMIT :row_limit;
