-- name: lock(tenant_id)!
-- Waits until nobody else bills this tenant; the lock goes with the connection.
SELECT pg_advisory_lock(hashtextextended('vision_assets: billing of ' || :tenant_id::uuid::text, 0));

-- name: unbilled(tenant_id, before)
-- What the meters have for the days before a UTC day, where it differs from the latest revision, with that. The tenant's
-- usage is locked, so what was booked on those days is all there. A day of storage is what the meter left behind, what
-- it stands at, and what was corrected afterwards.
WITH stretches AS (
    SELECT content_type, day, byte_seconds FROM storage_days WHERE tenant_id = :tenant_id
    UNION ALL
    SELECT content_type, utc_day(metered_at), metered_byte_seconds FROM tenant_storage_usage
    WHERE tenant_id = :tenant_id
    UNION ALL
    SELECT u.content_type, d.day, d.byte_seconds
    FROM tenant_storage_usage u, byte_seconds_by_day(u.metered_bytes, u.metered_at, utc_midnight(:before)) d
    WHERE u.tenant_id = :tenant_id
    UNION ALL
    SELECT c.content_type, d.day, d.byte_seconds
    FROM storage_corrections c, byte_seconds_by_day(c.bytes, c.effective_from, c.corrected_at) d
    WHERE c.tenant_id = :tenant_id
), metered AS (
    SELECT day, 'storage' AS meter, content_type, '' AS provider, '' AS model, sum(byte_seconds) AS byte_seconds,
           NULL::bigint AS tokens, NULL::bigint AS calls, NULL::bigint AS unconfirmed_tokens,
           NULL::bigint AS unconfirmed_calls
    FROM stretches GROUP BY day, content_type
    UNION ALL
    SELECT day, 'vision', '', provider, model, NULL, tokens, calls, unconfirmed_tokens, unconfirmed_calls
    FROM token_days WHERE tenant_id = :tenant_id
), latest AS (
    SELECT * FROM billing_usage_latest WHERE tenant_id = :tenant_id
)
SELECT m.*, l.revision, l.byte_seconds AS billed_byte_seconds, l.tokens AS billed_tokens, l.calls AS billed_calls,
       l.unconfirmed_tokens AS billed_unconfirmed_tokens, l.unconfirmed_calls AS billed_unconfirmed_calls,
       l.price_per_million, l.currency, l.billed_at
FROM metered m
LEFT JOIN latest l USING (day, meter, content_type, provider, model)
WHERE m.day < :before
  AND (coalesce(m.byte_seconds, 0), coalesce(m.tokens, 0), coalesce(m.calls, 0), coalesce(m.unconfirmed_tokens, 0),
       coalesce(m.unconfirmed_calls, 0))
      <> (coalesce(l.byte_seconds, 0), coalesce(l.tokens, 0), coalesce(l.calls, 0), coalesce(l.unconfirmed_tokens, 0),
          coalesce(l.unconfirmed_calls, 0))
ORDER BY m.day, m.meter, m.content_type, m.provider, m.model;

-- name: add(tenant_id, day, meter, content_type, provider, model, revision, byte_seconds, tokens, calls, unconfirmed_tokens, unconfirmed_calls, price_per_million, currency, cost_microunits, billed_at)*!
-- Writes revisions.
INSERT INTO billing_usage (tenant_id, day, meter, content_type, provider, model, revision, byte_seconds, tokens, calls,
                           unconfirmed_tokens, unconfirmed_calls, price_per_million, currency, cost_microunits, billed_at)
VALUES (:tenant_id, :day, :meter, :content_type, :provider, :model, :revision, :byte_seconds, :tokens, :calls,
        :unconfirmed_tokens, :unconfirmed_calls, :price_per_million, :currency, :cost_microunits, :billed_at);

-- name: unexported(tenant_id)
-- Months with rows that are not in their files yet, with the newest row.
SELECT m.month, m.seq
FROM (
    SELECT date_trunc('month', day::timestamp)::date AS month, max(seq) AS seq FROM billing_usage
    WHERE tenant_id = :tenant_id
    GROUP BY 1
) m
LEFT JOIN billing_exports e ON e.tenant_id = :tenant_id AND e.month = m.month
WHERE e.seq IS NULL OR e.seq < m.seq
ORDER BY m.month;

-- name: billed(tenant_id, month)
-- All revisions of a month, by line and revision.
SELECT day, meter, content_type, provider, model, revision, byte_seconds, tokens, calls, unconfirmed_tokens,
       unconfirmed_calls, price_per_million, currency, billed_at
FROM billing_usage
WHERE tenant_id = :tenant_id AND day >= :month AND day < :month::date + interval '1 month'
ORDER BY day, meter, content_type, provider, model, revision;

-- name: note_exported(tenant_id, month, seq)!
-- Notes that the files of a month hold all rows up to this one.
INSERT INTO billing_exports (tenant_id, month, seq) VALUES (:tenant_id, :month, :seq)
ON CONFLICT (tenant_id, month) DO UPDATE SET seq = excluded.seq, exported_at = now();

-- name: totals(tenant_id, month)
-- What the tenants that are there, or one, were billed for a month by the latest revisions, by line; with the days and
-- how many of them were restated.
SELECT t.name AS tenant, b.meter, b.content_type, b.provider, b.model, b.currency,
       sum(b.gb_hours) AS gb_hours, sum(b.tokens)::bigint AS tokens, sum(b.calls)::bigint AS calls,
       sum(b.unconfirmed_tokens)::bigint AS unconfirmed_tokens, sum(b.cost_microunits)::bigint AS cost_microunits,
       count(*) AS days, count(*) FILTER (WHERE b.revision > 1) AS restated_days, max(b.day) AS last_day
FROM billing_usage_latest b
JOIN tenants t ON t.id = b.tenant_id
WHERE (:tenant_id::uuid IS NULL OR b.tenant_id = :tenant_id)
  AND b.day >= :month AND b.day < :month::date + interval '1 month'
GROUP BY t.name, b.meter, b.content_type, b.provider, b.model, b.currency
ORDER BY t.name, b.meter, b.content_type, b.provider, b.model, b.currency;
