-- name: record_dead_letters(tenant_id, stage, item, error_class, reason, message)*!
-- Keeps what could not be done, once an item; the latest error stands.
INSERT INTO dead_letters (tenant_id, stage, item, error_class, reason, message)
VALUES (:tenant_id, :stage, :item, :error_class, :reason, :message)
ON CONFLICT (tenant_id, stage, item) DO UPDATE SET
    error_class = excluded.error_class, reason = excluded.reason, message = excluded.message,
    attempts = dead_letters.attempts + 1, last_at = now(), resolved_at = NULL;

-- name: resolve_dead_letters(tenant_id, stage, items)!
-- Marks dead letters as done, for items that went through after all.
UPDATE dead_letters SET resolved_at = now()
WHERE tenant_id = :tenant_id AND stage = :stage AND item = ANY(:items::text[]) AND resolved_at IS NULL;

-- name: count(tenant_id, name, labels, value)*!
-- Raises counters.
INSERT INTO counters (tenant_id, name, labels, value)
VALUES (:tenant_id, :name, :labels, :value)
ON CONFLICT (tenant_id, name, labels) DO UPDATE SET value = counters.value + excluded.value;

-- name: used_bytes(tenant_id, content_type, s3_key)^
-- What one quota check compares with the limits.
SELECT
    coalesce(sum(total_bytes), 0)::bigint AS bucket,
    coalesce(sum(total_bytes) FILTER (WHERE tenant_id = :tenant_id), 0)::bigint AS tenant,
    coalesce(sum(total_bytes) FILTER (WHERE content_type = :content_type), 0)::bigint AS type,
    coalesce((SELECT bytes FROM storage_objects WHERE tenant_id = :tenant_id AND s3_key = :s3_key), 0) AS object
FROM tenant_storage_usage;

-- name: lock_usage(tenant_id, content_type)!
-- Comes before the ledger's rows in every transaction that touches both, so that two of them never wait for each other.
SELECT FROM tenant_storage_usage
WHERE tenant_id = :tenant_id AND (:content_type::text IS NULL OR content_type = :content_type)
ORDER BY content_type
FOR NO KEY UPDATE;

-- name: record_put(tenant_id, s3_key, content_type, size_bytes)!
-- Counts an object: once however often it is said. The usage follows by the ledger's triggers, in the same transaction.
INSERT INTO storage_objects (tenant_id, s3_key, content_type, bytes)
VALUES (:tenant_id, :s3_key, :content_type, :size_bytes)
ON CONFLICT (tenant_id, s3_key) DO UPDATE SET bytes = excluded.bytes, recorded_at = now();

-- name: forget_put(tenant_id, s3_key)!
-- Takes an object that is gone out of the ledger; the usage follows.
DELETE FROM storage_objects WHERE tenant_id = :tenant_id AND s3_key = :s3_key;
