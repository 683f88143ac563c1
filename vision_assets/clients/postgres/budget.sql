-- The functions stand in the schema (migration 0002): they take the budget's lock and look afterwards.

-- name: hold_all(ids, tenant_ids, kinds, subjects, attempts, estimates, providers, models, prompts, limit_global, limit_periods, limit_tokens, limit_requests, day, reserved_at, expires_at)$
-- Holds a whole batch if all of it fits, else nothing. An id or a subject that is held already may violate its index.
SELECT hold_budget(
    :ids, :tenant_ids, :kinds, :subjects, :attempts, :estimates, :providers, :models, :prompts, :limit_global,
    :limit_periods, :limit_tokens, :limit_requests, :day, :reserved_at, :expires_at
);

-- name: lock()!
-- Keeps everyone else from the budget until the transaction ends; what is read afterwards stays true.
SELECT lock_budget();

-- name: windows(scopes, periods, providers, days, limit_tokens, limit_requests)
-- Reads windows with the limits in force, in the order asked for, without a lock; what is not there is all zeros.
SELECT scope, period, provider, starts_on,
       coalesce(w.used_tokens, 0) AS used_tokens, coalesce(w.held_tokens, 0) AS held_tokens,
       coalesce(w.used_requests, 0) AS used_requests, coalesce(w.held_requests, 0) AS held_requests,
       coalesce(w.overrun_tokens, 0) AS overrun_tokens, coalesce(w.phantom_tokens, 0) AS phantom_tokens,
       coalesce(l.tokens, m.limit_tokens) AS limit_tokens, coalesce(l.requests, m.limit_requests) AS limit_requests
FROM unnest(
    :scopes::uuid[], :periods::text[], :providers::text[], :days::date[], :limit_tokens::bigint[],
    :limit_requests::bigint[]
) WITH ORDINALITY AS m (scope, period, provider, starts_on, limit_tokens, limit_requests, place)
LEFT JOIN budget_windows w USING (scope, period, provider, starts_on)
LEFT JOIN budget_limits l USING (scope, period)
ORDER BY m.place;

-- name: known_holds(ids, tenant_ids, subjects)
-- Holds under these ids, and live and expired ones for these subjects.
SELECT * FROM budget_holds WHERE id = ANY(:ids::uuid[])
UNION ALL
SELECT h.* FROM unnest(:tenant_ids::uuid[], :subjects::text[]) AS s (tenant_id, subject)
JOIN budget_holds h ON h.tenant_id = s.tenant_id AND h.subject = s.subject AND NOT h.expired
UNION ALL
SELECT h.* FROM unnest(:tenant_ids::uuid[], :subjects::text[]) AS s (tenant_id, subject)
JOIN budget_holds h ON h.tenant_id = s.tenant_id AND h.subject = s.subject AND h.expired;

-- name: settle(ids, actual_tokens, tokens_step)
-- Ends holds, each exactly once. Actual null: never sent. Gives the place (from 1) of each that was still there.
SELECT place, was_expired FROM settle_budget(:ids, :actual_tokens, :tokens_step);

-- name: overdue(now, tenant_id, row_limit)
-- Live holds past their expiry, of one tenant or all.
SELECT id FROM budget_holds
WHERE NOT expired AND expires_at <= :now AND (:tenant_id::uuid IS NULL OR tenant_id = :tenant_id)
ORDER BY expires_at
LIMIT :row_limit;

-- name: expire(ids)^
-- Charges holds at their estimates; those that ended meanwhile are let be.
SELECT holds, tokens FROM expire_budget(:ids);

-- name: explain(ids)!
-- Makes expired holds of calls that failed before somebody's eyes: they are no attempts without a trace.
UPDATE budget_holds SET attempt = 0, subject = NULL WHERE id = ANY(:ids::uuid[]) AND expired;

-- name: lost(tenant_id, since)^
-- A tenant's holds that expired since then without a trace of their calls, and what they are charged.
SELECT count(*) AS holds, coalesce(sum(estimated_tokens), 0)::bigint AS tokens FROM budget_holds
WHERE tenant_id = :tenant_id AND expired AND attempt > 0 AND expires_at > :since;

-- name: forget_expired(before)!
-- Forgets expired holds whose late settle nobody expects any more; what they charged stays. Those being settled are left.
DELETE FROM budget_holds WHERE id IN (
    SELECT id FROM budget_holds WHERE expired AND expires_at < :before FOR UPDATE SKIP LOCKED
);

-- name: token_counts(provider, model, prompt)
-- Settled calls of one model and prompt by their tokens.
SELECT tokens, calls FROM token_counts WHERE provider = :provider AND model = :model AND prompt = :prompt;
