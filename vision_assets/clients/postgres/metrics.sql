-- name: tenants(day, month)
-- Every active tenant: what it has stored, and spent and holds in a day and its month, with the limits of its own.
SELECT t.id AS tenant_id, t.created_at, s.stored_bytes, s.reserved_bytes, s.taken_bytes, s.reconciled_at,
       l.limits AS storage_limits,
       coalesce(d.used_tokens, 0) AS day_used_tokens, coalesce(d.held_tokens, 0) AS day_held_tokens,
       coalesce(m.used_tokens, 0) AS month_used_tokens, coalesce(m.held_tokens, 0) AS month_held_tokens,
       b.day_limit_tokens, b.month_limit_tokens
FROM tenants t
JOIN (
    SELECT tenant_id, array_agg(total_bytes ORDER BY content_type) AS stored_bytes,
           array_agg(total_bytes + reserved_bytes ORDER BY content_type) AS taken_bytes,
           sum(reserved_bytes)::bigint AS reserved_bytes, min(reconciled_at) AS reconciled_at
    FROM tenant_storage_usage
    GROUP BY tenant_id
) s ON s.tenant_id = t.id
LEFT JOIN (
    SELECT tenant_id, jsonb_object_agg(content_type, limit_bytes) AS limits FROM storage_limits GROUP BY tenant_id
) l ON l.tenant_id = t.id
LEFT JOIN budget_windows d ON d.scope = t.id AND d.period = 'day' AND d.provider = '' AND d.starts_on = :day
LEFT JOIN budget_windows m ON m.scope = t.id AND m.period = 'month' AND m.provider = '' AND m.starts_on = :month
LEFT JOIN (
    SELECT scope, max(tokens) FILTER (WHERE period = 'day') AS day_limit_tokens,
           max(tokens) FILTER (WHERE period = 'month') AS month_limit_tokens
    FROM budget_limits
    GROUP BY scope
) b ON b.scope = t.id
WHERE t.active;

-- name: storage_totals()
-- What all tenants together have stored and hold, by content type.
SELECT content_type, total_bytes, reserved_bytes FROM storage_totals;

-- name: global_budget(everyone, day, month)^
-- What all tenants together spent and hold in a day and its month, with the limits set for them, and the tokens of all
-- calls that were ever settled: without those of holds that expired, which a late settle takes back.
SELECT coalesce(sum(w.used_tokens) FILTER (WHERE w.period = 'day' AND w.starts_on = :day), 0)::bigint
           AS day_used_tokens,
       coalesce(sum(w.held_tokens) FILTER (WHERE w.period = 'day' AND w.starts_on = :day), 0)::bigint
           AS day_held_tokens,
       coalesce(sum(w.used_tokens) FILTER (WHERE w.period = 'month' AND w.starts_on = :month), 0)::bigint
           AS month_used_tokens,
       coalesce(sum(w.held_tokens) FILTER (WHERE w.period = 'month' AND w.starts_on = :month), 0)::bigint
           AS month_held_tokens,
       coalesce(sum(w.used_tokens - w.phantom_tokens) FILTER (WHERE w.period = 'month'), 0)::bigint AS settled_tokens,
       (SELECT tokens FROM budget_limits WHERE scope = :everyone AND period = 'day') AS day_limit_tokens,
       (SELECT tokens FROM budget_limits WHERE scope = :everyone AND period = 'month') AS month_limit_tokens
FROM budget_windows w
WHERE w.scope = :everyone AND w.period IN ('day', 'month');

-- name: counters()
-- All counters, summed over the tenants.
SELECT name, labels, sum(value)::bigint AS value FROM counters GROUP BY name, labels;

-- name: counters_by_tenant(names)
-- Some counters of each tenant, those that are not active among them: when one is active again, what it counted before
-- is not new.
SELECT name, labels, tenant_id, value FROM counters WHERE name = ANY(:names::text[]);

-- name: media_queue()
-- References of active tenants that are to do, by the conditions of the pass, with the time of the oldest one's post.
SELECT m.tenant_id, count(*) AS items, min(p.posted_at) AS oldest_at
FROM post_media m
JOIN tenants t ON t.id = m.tenant_id AND t.active
JOIN posts p ON p.id = m.post_id
WHERE m.state IN ('pending', 'blocked', 'missing') AND m.reason IS DISTINCT FROM 'not_exported'
GROUP BY m.tenant_id;

-- name: vision_queue()
-- Stored pictures of active tenants that nobody has looked at or decided about, with the time since when the oldest one
-- is stored. A picture whose result is to be renewed, as after a change of the prompt, is not among them.
SELECT o.tenant_id, count(*) AS items, min(o.first_seen_at) AS oldest_at
FROM media_objects o
JOIN tenants t ON t.id = o.tenant_id AND t.active
WHERE NOT EXISTS (
    SELECT FROM vision_results r
    WHERE r.tenant_id = o.tenant_id AND r.sha256 = o.sha256 AND r.method <> 'fallback' AND r.fingerprint <> '')
  AND NOT EXISTS (SELECT FROM vision_decisions d WHERE d.tenant_id = o.tenant_id AND d.sha256 = o.sha256)
GROUP BY o.tenant_id;

-- name: deferred_queue()
-- Pictures of active tenants whose call waits for the budget or the provider, with the time when the first is due.
SELECT d.tenant_id, count(*) AS items, min(d.due_at) AS oldest_at
FROM vision_decisions d
JOIN tenants t ON t.id = d.tenant_id AND t.active
WHERE d.due_at IS NOT NULL
GROUP BY d.tenant_id;

-- name: open_dead_letters()
-- What could not be done and is not done since, by stage.
SELECT stage, count(*) AS letters FROM dead_letters WHERE resolved_at IS NULL GROUP BY stage;
