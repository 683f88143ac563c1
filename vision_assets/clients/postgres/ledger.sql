-- name: record_dead_letters(tenant_id, stage, item, error_class, reason, message)*!
-- Keeps what could not be done, once an item; the latest error stands. What went through meanwhile begins anew.
INSERT INTO dead_letters (tenant_id, stage, item, error_class, reason, message)
VALUES (:tenant_id, :stage, :item, :error_class, :reason, :message)
ON CONFLICT (tenant_id, stage, item) DO UPDATE SET
    error_class = excluded.error_class, reason = excluded.reason, message = excluded.message,
    attempts = dead_letters.attempts + 1, last_at = now(), resolved_at = NULL, reopened_at = NULL,
    retries = CASE WHEN dead_letters.resolved_at IS NULL THEN dead_letters.retries ELSE 0 END;

-- name: resolve_dead_letters(tenant_id, stage, items)!
-- Marks dead letters as done, for items that went through after all.
UPDATE dead_letters SET resolved_at = now()
WHERE tenant_id = :tenant_id AND stage = :stage AND item = ANY(:items::text[]) AND resolved_at IS NULL;

-- name: count(tenant_id, name, labels, value)*!
-- Raises counters.
INSERT INTO counters (tenant_id, name, labels, value)
VALUES (:tenant_id, :name, :labels, :value)
ON CONFLICT (tenant_id, name, labels) DO UPDATE SET value = counters.value + excluded.value;
