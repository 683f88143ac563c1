-- name: open_listing()#
-- Places for a listing and for what it nominates, of this connection alone; what another comparison left here goes.
DROP TABLE IF EXISTS pg_temp.listing, pg_temp.nominated;
CREATE TEMPORARY TABLE listing (s3_key text NOT NULL, bytes bigint NOT NULL);
CREATE TEMPORARY TABLE nominated (s3_key text COLLATE "C" PRIMARY KEY);

-- name: close_listing()#
-- Gives the room back: the connection may live on in the pool.
DROP TABLE IF EXISTS pg_temp.listing, pg_temp.nominated;

-- name: nominate(tenant_id, listed_from)!
-- Where ledger and listing of one tenant differ. What has a slot, or was booked since the listing began, is left out:
-- the listing may be older. That only saves looks; whoever looks takes the slot first.
INSERT INTO nominated (s3_key)
SELECT coalesce(l.s3_key, o.s3_key)
FROM listing l
FULL JOIN (SELECT s3_key, bytes, op_id, recorded_at FROM storage_objects WHERE tenant_id = :tenant_id) o
          ON o.s3_key = l.s3_key
WHERE l.bytes IS DISTINCT FROM o.bytes AND o.op_id IS NULL
  AND (o.recorded_at IS NULL OR o.recorded_at < :listed_from)
ON CONFLICT DO NOTHING;

-- name: nominated(after, row_limit)
-- Nominated keys after a key, in order.
SELECT s3_key FROM nominated WHERE s3_key > :after ORDER BY s3_key LIMIT :row_limit;

-- name: ensure_usage_rows(tenant_id)!
-- A tenant that exists has a usage figure of each type, even if somebody has deleted them.
INSERT INTO tenant_storage_usage (tenant_id, content_type)
SELECT id, content_type FROM tenants, unnest(ARRAY['crawl', 'media', 'vision']) AS content_type
WHERE id = :tenant_id
ON CONFLICT DO NOTHING;

-- name: off_sums(tenant_id)
-- Usage figures of one tenant that are not the sums of its object ledger, with what they show more. One look sees one
-- moment, and usage moves in the transaction that moves the ledger: so there is a difference only when somebody else
-- wrote to the table.
SELECT u.content_type,
       u.objects_count - coalesce(o.objects, 0) AS objects,
       (u.total_bytes - coalesce(o.bytes, 0))::bigint AS bytes,
       (u.reserved_bytes - coalesce(o.reserved_bytes, 0))::bigint AS reserved_bytes
FROM tenant_storage_usage u
LEFT JOIN (
    SELECT content_type, count(bytes) AS objects, sum(bytes) AS bytes, sum(op_delta) AS reserved_bytes
    FROM storage_objects WHERE tenant_id = :tenant_id
    GROUP BY content_type
) o USING (content_type)
WHERE u.tenant_id = :tenant_id
  AND (u.objects_count, u.total_bytes, u.reserved_bytes)
      <> (coalesce(o.objects, 0), coalesce(o.bytes, 0), coalesce(o.reserved_bytes, 0))
ORDER BY u.content_type;

-- name: move_usage(tenant_id, content_type, objects, bytes, reserved_bytes)!
-- Takes from a usage figure what it shows more than the ledger. Its row is locked, so the ledger stands still.
UPDATE tenant_storage_usage SET
    objects_count = objects_count - :objects, total_bytes = total_bytes - :bytes,
    reserved_bytes = reserved_bytes - :reserved_bytes, last_updated = now()
WHERE tenant_id = :tenant_id AND content_type = :content_type;

-- name: totals_agree()$
-- Whether what all tenants have together is the sum of the tenants' figures, at one moment.
SELECT NOT EXISTS (
    SELECT FROM storage_totals t
    LEFT JOIN (
        SELECT content_type, sum(objects_count) AS objects, sum(total_bytes) AS bytes,
               sum(reserved_bytes) AS reserved_bytes
        FROM tenant_storage_usage
        GROUP BY content_type
    ) u USING (content_type)
    WHERE (t.objects_count, t.total_bytes, t.reserved_bytes)
          <> (coalesce(u.objects, 0), coalesce(u.bytes, 0), coalesce(u.reserved_bytes, 0)));

-- name: off_totals()
-- Figures of all tenants together that are not the sums of the object ledger, with what they show more. Reads the whole
-- ledger: another tenant's figures may be wrong themselves.
SELECT t.content_type,
       t.objects_count - coalesce(o.objects, 0) AS objects,
       (t.total_bytes - coalesce(o.bytes, 0))::bigint AS bytes,
       (t.reserved_bytes - coalesce(o.reserved_bytes, 0))::bigint AS reserved_bytes
FROM storage_totals t
LEFT JOIN (
    SELECT content_type, count(bytes) AS objects, sum(bytes) AS bytes, sum(op_delta) AS reserved_bytes
    FROM storage_objects
    GROUP BY content_type
) o USING (content_type)
WHERE (t.objects_count, t.total_bytes, t.reserved_bytes)
      <> (coalesce(o.objects, 0), coalesce(o.bytes, 0), coalesce(o.reserved_bytes, 0))
ORDER BY t.content_type;

-- name: move_totals(content_type, objects, bytes, reserved_bytes)!
-- Takes from a figure of all tenants together what it shows more than the ledger. Its row is locked, so the ledger's
-- sums stand still.
UPDATE storage_totals SET
    objects_count = objects_count - :objects, total_bytes = total_bytes - :bytes,
    reserved_bytes = reserved_bytes - :reserved_bytes
WHERE content_type = :content_type;

-- name: note_reconciled(tenant_id, listed_from)!
-- Notes when the figures were held against S3: as of when the listing began.
UPDATE tenant_storage_usage SET reconciled_at = :listed_from, last_updated = now() WHERE tenant_id = :tenant_id;

-- name: count_drift(tenant_id, drifts, objects)!
-- Raises the counters of a tenant's drift, as long as it is there. One order for all, so that two writers never deadlock.
INSERT INTO counters (tenant_id, name, labels, value)
SELECT t.id, 'storage_drift_objects_total', jsonb_build_object('drift', d.drift), d.objects
FROM tenants t, unnest(:drifts::text[], :objects::bigint[]) AS d (drift, objects)
WHERE t.id = :tenant_id
ORDER BY d.drift
ON CONFLICT (tenant_id, name, labels) DO UPDATE SET value = counters.value + excluded.value;
