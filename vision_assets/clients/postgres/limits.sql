-- name: set_storage_limit(tenant_id, content_type, limit_bytes)!
-- Gives one tenant a limit of its own, for all types together or for one.
INSERT INTO storage_limits (tenant_id, content_type, limit_bytes)
VALUES (:tenant_id, :content_type, :limit_bytes)
ON CONFLICT (tenant_id, content_type) DO UPDATE SET limit_bytes = excluded.limit_bytes;

-- name: clear_storage_limits(tenant_id)!
-- Lets the settings hold for one tenant again.
DELETE FROM storage_limits WHERE tenant_id = :tenant_id;

-- name: storage_by_tenant(tenant_id)
-- What the active tenants, or one, have stored and hold, with the limits of their own.
SELECT t.id, t.name,
       coalesce(jsonb_object_agg(u.content_type, u.total_bytes), '{}') AS used,
       sum(u.reserved_bytes)::bigint AS reserved_bytes,
       coalesce((SELECT jsonb_object_agg(l.content_type, l.limit_bytes) FROM storage_limits l
                 WHERE l.tenant_id = t.id), '{}') AS limits
FROM tenants t
JOIN tenant_storage_usage u ON u.tenant_id = t.id
WHERE t.active AND (:tenant_id::uuid IS NULL OR t.id = :tenant_id)
GROUP BY t.id, t.name
ORDER BY t.name;

-- name: storage_of_all()
-- What all tenants together have stored and hold, by content type.
SELECT content_type, total_bytes, reserved_bytes, objects_count FROM storage_totals ORDER BY content_type;

-- name: set_budget_limit(scope, period, tokens, requests)!
-- Gives a tenant, or all together, a limit of its own; what is null stays as it was.
INSERT INTO budget_limits AS l (scope, period, tokens, requests)
VALUES (:scope, :period, :tokens, :requests)
ON CONFLICT (scope, period) DO UPDATE SET
    tokens = coalesce(excluded.tokens, l.tokens), requests = coalesce(excluded.requests, l.requests);

-- name: clear_budget_limits(scope)!
-- Lets the settings hold again.
DELETE FROM budget_limits WHERE scope = :scope;

-- name: budget_by_scope(tenant_id, everyone, day, month)
-- What the active tenants, or one, and all together used and hold in a day and its month, with the limits of their own.
SELECT s.scope, s.name, p.period,
       coalesce(sum(w.used_tokens), 0)::bigint AS used_tokens,
       coalesce(sum(w.held_tokens), 0)::bigint AS held_tokens,
       coalesce(sum(w.used_requests), 0)::bigint AS used_requests,
       coalesce(sum(w.held_requests), 0)::bigint AS held_requests,
       l.tokens AS limit_tokens, l.requests AS limit_requests
FROM (SELECT id AS scope, name FROM tenants WHERE active AND (:tenant_id::uuid IS NULL OR id = :tenant_id)
      UNION ALL SELECT :everyone::uuid, NULL) s
CROSS JOIN (VALUES ('day', :day::date), ('month', :month::date), ('calls', NULL)) AS p (period, starts_on)
LEFT JOIN budget_windows w ON w.scope = s.scope AND w.period = p.period
                          AND (w.starts_on = p.starts_on OR p.starts_on IS NULL)
LEFT JOIN budget_limits l ON l.scope = s.scope AND l.period = p.period
GROUP BY s.scope, s.name, p.period, l.tokens, l.requests
ORDER BY s.name NULLS LAST, s.scope, p.period;

-- name: all_token_counts()
-- Settled calls by their tokens, rounded up, for every model and prompt.
SELECT provider, model, prompt, tokens, calls FROM token_counts ORDER BY provider, model, prompt, tokens;
