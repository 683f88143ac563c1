-- name: lock_usage(tenant_ids)
-- Comes first in every transaction that changes the object ledger: who has a tenant's usage has all its rows. What is
-- read afterwards, by another statement, stays as it is until the transaction ends. One order, so that nobody deadlocks.
SELECT u.tenant_id, u.content_type, u.total_bytes, u.reserved_bytes, u.objects_count,
       l.limit_bytes AS type_limit_bytes, a.limit_bytes AS tenant_limit_bytes
FROM tenant_storage_usage u
LEFT JOIN storage_limits l ON l.tenant_id = u.tenant_id AND l.content_type = u.content_type
LEFT JOIN storage_limits a ON a.tenant_id = u.tenant_id AND a.content_type = 'all'
WHERE u.tenant_id = ANY(:tenant_ids::uuid[])
ORDER BY u.tenant_id, u.content_type
FOR NO KEY UPDATE OF u;

-- name: lock_totals()
-- Comes second, and only when something is to be reserved, or these figures are put right: all tenants wait here for
-- each other.
SELECT content_type, total_bytes, reserved_bytes, objects_count FROM storage_totals
ORDER BY content_type
FOR NO KEY UPDATE;

-- name: usage(tenant_id)
-- What one tenant and all together have stored, with the tenant's own limits, at one moment.
SELECT u.content_type, u.total_bytes, u.reserved_bytes, u.objects_count,
       t.total_bytes AS all_total_bytes, t.reserved_bytes AS all_reserved_bytes, t.objects_count AS all_objects_count,
       l.limit_bytes AS type_limit_bytes, a.limit_bytes AS tenant_limit_bytes
FROM tenant_storage_usage u
JOIN storage_totals t ON t.content_type = u.content_type
LEFT JOIN storage_limits l ON l.tenant_id = u.tenant_id AND l.content_type = u.content_type
LEFT JOIN storage_limits a ON a.tenant_id = u.tenant_id AND a.content_type = 'all'
WHERE u.tenant_id = :tenant_id;

-- name: entries(tenant_ids, s3_keys)
-- Rows of the object ledger, where there are any.
SELECT o.tenant_id, o.s3_key, o.bytes, o.op_id, o.op_kind, o.op_bytes, o.op_delta, o.op_until
FROM unnest(:tenant_ids::uuid[], :s3_keys::text[]) AS asked (tenant_id, s3_key)
JOIN storage_objects o ON o.tenant_id = asked.tenant_id AND o.s3_key = asked.s3_key;

-- name: take_slots(tenant_ids, s3_keys, content_types, op_ids, op_kinds, op_bytes, op_deltas, op_until, bounds_seconds, buckets)!
-- Writes slots, with what they hold; usage and totals follow by the ledger's triggers. Of puts it counts how long this
-- transaction took to give them room, its waits for locks among that; who writes these counters has the tenant's usage.
WITH slot AS MATERIALIZED (
    SELECT * FROM unnest(:tenant_ids::uuid[], :s3_keys::text[], :content_types::text[], :op_ids::uuid[],
                         :op_kinds::text[], :op_bytes::bigint[], :op_deltas::bigint[])
                  AS s (tenant_id, s3_key, content_type, op_id, op_kind, op_bytes, op_delta)
), took AS MATERIALIZED (
    SELECT extract(epoch FROM clock_timestamp() - now())::float8 AS seconds
), counted AS (
    INSERT INTO counters (tenant_id, name, labels, value)
    SELECT p.tenant_id, c.name, c.labels, c.value * p.puts
    FROM (SELECT tenant_id, count(*) AS puts FROM slot WHERE op_kind = 'put' GROUP BY tenant_id) p
    CROSS JOIN took
    CROSS JOIN LATERAL (VALUES
        ('storage_quota_check_duration_microseconds_total', jsonb_build_object(), (took.seconds * 1e6)::bigint),
        ('storage_quota_check_duration_seconds',
         jsonb_build_object('le', (:buckets::text[])[width_bucket(took.seconds, :bounds_seconds::float8[]) + 1]), 1)
    ) AS c (name, labels, value)
    ORDER BY p.tenant_id, c.name
    ON CONFLICT (tenant_id, name, labels) DO UPDATE SET value = counters.value + excluded.value
)
INSERT INTO storage_objects (tenant_id, s3_key, content_type, bytes, op_id, op_kind, op_bytes, op_delta, op_until)
SELECT tenant_id, s3_key, content_type, NULL, op_id, op_kind, op_bytes, op_delta, :op_until
FROM slot
ON CONFLICT (tenant_id, s3_key) DO UPDATE SET
    op_id = excluded.op_id, op_kind = excluded.op_kind, op_bytes = excluded.op_bytes, op_delta = excluded.op_delta,
    op_until = excluded.op_until;

-- name: use(tenant_ids, s3_keys)!
-- Marks objects as used just now.
UPDATE storage_objects o SET recorded_at = now()
FROM unnest(:tenant_ids::uuid[], :s3_keys::text[]) AS used (tenant_id, s3_key)
WHERE o.tenant_id = used.tenant_id AND o.s3_key = used.s3_key;

-- name: commit(tenant_ids, s3_keys, content_types, op_ids, puts, sizes, modified)
-- Books what lies in S3 and gives the slots back, in one statement. A slot that is another's by now is left alone, also
-- when it went while this waited for the usage: then the row is looked at again. An age that S3 told is kept only where
-- the books had another object or none.
WITH outcome AS (
    SELECT * FROM unnest(:tenant_ids::uuid[], :s3_keys::text[], :op_ids::uuid[], :puts::boolean[], :sizes::bigint[],
                         :modified::timestamptz[]) AS o (tenant_id, s3_key, op_id, put, size_bytes, modified_at)
), usage AS MATERIALIZED (
    SELECT FROM tenant_storage_usage
    WHERE tenant_id = ANY(:tenant_ids::uuid[])
    ORDER BY tenant_id, content_type
    FOR NO KEY UPDATE
), totals AS MATERIALIZED (
    SELECT FROM storage_totals
    WHERE content_type = ANY(:content_types::text[]) AND (SELECT count(*) FROM usage) > 0
    ORDER BY content_type
    FOR NO KEY UPDATE
), locked AS MATERIALIZED (
    SELECT count(*) FROM totals
), booked AS (
    UPDATE storage_objects o SET
        bytes = outcome.size_bytes,
        recorded_at = CASE WHEN outcome.modified_at IS NULL THEN now()
                           WHEN o.bytes IS DISTINCT FROM outcome.size_bytes THEN least(outcome.modified_at, now())
                           ELSE o.recorded_at END,
        op_id = NULL, op_kind = NULL, op_bytes = NULL, op_delta = NULL, op_until = NULL
    FROM outcome, locked
    WHERE o.tenant_id = outcome.tenant_id AND o.s3_key = outcome.s3_key AND o.op_id = outcome.op_id
      AND outcome.size_bytes IS NOT NULL AND locked.count >= 0
    RETURNING outcome.op_id, outcome.put, o.tenant_id, o.content_type
), gone AS (
    DELETE FROM storage_objects o USING outcome, locked
    WHERE o.tenant_id = outcome.tenant_id AND o.s3_key = outcome.s3_key AND o.op_id = outcome.op_id
      AND outcome.size_bytes IS NULL AND locked.count >= 0
    RETURNING outcome.op_id
), counted AS (
    INSERT INTO counters (tenant_id, name, labels, value)
    SELECT tenant_id, 'storage_puts_total', jsonb_build_object('content_type', content_type), count(*)
    FROM booked WHERE put
    GROUP BY tenant_id, content_type
    ORDER BY tenant_id, content_type
    ON CONFLICT (tenant_id, name, labels) DO UPDATE SET value = counters.value + excluded.value
)
SELECT op_id FROM booked UNION ALL SELECT op_id FROM gone;

-- name: note_corrections(tenant_ids, s3_keys, op_ids, sizes, modified)!
-- Before a `commit` of what somebody looked at: notes what the meter did not know, and since when. An object that is
-- there was written when S3 says so; one that is gone may have gone right after it was last booked or used. What the last
-- reconciliation agreed with stays, and nothing reaches back before the meter began. Usage is locked, so the meter moves
-- in this transaction's moment.
INSERT INTO storage_corrections (tenant_id, content_type, bytes, effective_from, corrected_at)
SELECT c.tenant_id, c.content_type, sum(c.bytes), c.effective_from, c.corrected_at
FROM (
    SELECT o.tenant_id, o.content_type, coalesce(seen.size_bytes, 0) - coalesce(o.bytes, 0) AS bytes,
           greatest(u.metered_from, u.reconciled_at, seen.modified_at,
                    CASE WHEN o.bytes IS NOT NULL THEN o.recorded_at END) AS effective_from,
           greatest(u.metered_at, now()) AS corrected_at
    FROM unnest(:tenant_ids::uuid[], :s3_keys::text[], :op_ids::uuid[], :sizes::bigint[], :modified::timestamptz[])
         AS seen (tenant_id, s3_key, op_id, size_bytes, modified_at)
    JOIN storage_objects o ON o.tenant_id = seen.tenant_id AND o.s3_key = seen.s3_key AND o.op_id = seen.op_id
    JOIN tenant_storage_usage u ON u.tenant_id = o.tenant_id AND u.content_type = o.content_type
    WHERE o.op_kind = 'verify'
) c
WHERE c.bytes <> 0 AND c.effective_from < c.corrected_at
GROUP BY c.tenant_id, c.content_type, c.effective_from, c.corrected_at
HAVING sum(c.bytes) <> 0;

-- name: count_unchecked(tenant_ids, checks)!
-- Counts checks that failed; those of tenants that are gone by now are nobody's.
INSERT INTO counters (tenant_id, name, labels, value)
SELECT t.id, 'storage_quota_check_failures_total', '{}', counted.checks
FROM unnest(:tenant_ids::uuid[], :checks::bigint[]) AS counted (tenant_id, checks)
JOIN tenants t ON t.id = counted.tenant_id
ORDER BY t.id
ON CONFLICT (tenant_id, name, labels) DO UPDATE SET value = counters.value + excluded.value;

-- name: overdue(tenant_id, now, op_until, row_limit)
-- Takes over slots whose time is up, the oldest first: whoever had them cannot commit any more. Usage is locked already.
UPDATE storage_objects o SET op_id = gen_random_uuid(), op_kind = 'verify', op_until = :op_until
FROM (SELECT s3_key FROM storage_objects
      WHERE tenant_id = :tenant_id AND op_id IS NOT NULL AND op_until <= :now
      ORDER BY op_until LIMIT :row_limit) late
WHERE o.tenant_id = :tenant_id AND o.s3_key = late.s3_key
RETURNING o.s3_key, o.content_type, o.bytes, o.op_id, o.op_delta;
