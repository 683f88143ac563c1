-- A database as it is after some months. `:tenants` and `:posts` are numbers; a statement ends with its line.
SET synchronous_commit = off;
INSERT INTO tenants (id, name)
SELECT lpad(to_hex(n), 32, '0')::uuid, 'tenant ' || n FROM generate_series(1, :tenants) n;
INSERT INTO channels (id, tenant_id, source_key, title) SELECT id, id, 'test', name FROM tenants;
INSERT INTO posts (id, tenant_id, channel_id, message_id, posted_at)
SELECT lpad(to_hex(n), 32, '0')::uuid, t, t, n, now() - n * interval '1 second'
FROM generate_series(1, :posts) n, LATERAL (SELECT lpad(to_hex(1 + n % :tenants), 32, '0')::uuid AS t) AS of_tenant;
INSERT INTO post_media (post_id, position, tenant_id, message_id, role, source_uri, state, sha256)
SELECT id, 0, tenant_id, message_id, 'photo', 'file:///' || message_id,
       CASE WHEN message_id % 100 = 0 THEN 'pending' ELSE 'stored' END,
       CASE WHEN message_id % 100 <> 0 THEN lpad(to_hex(message_id), 64, '0') END
FROM posts;
INSERT INTO media_objects (tenant_id, sha256, mime, bytes, width, height, s3_key, first_post_seq, first_position)
SELECT m.tenant_id, m.sha256, 'image/jpeg', 100000, 800, 600, m.message_id, p.seq, 0
FROM post_media m JOIN posts p ON p.id = m.post_id WHERE m.sha256 IS NOT NULL;
INSERT INTO vision_results (tenant_id, sha256, provider, model, schema_version, fingerprint, status, method, result)
SELECT tenant_id, sha256, 'gigachat', 'GigaChat-2-Max', '1.0', 'f', 'ok', 'new', '{}' FROM media_objects
WHERE first_post_seq % 50 <> 0;
INSERT INTO vision_decisions (tenant_id, sha256, provider, model, verdict, reason, message, rules, due_at)
SELECT tenant_id, sha256, 'gigachat', 'GigaChat-2-Max', 'defer', 'daily_limit', 'm', 'r', now() FROM media_objects
WHERE first_post_seq % 50 = 0 AND first_post_seq % 3 <> 0;
INSERT INTO dead_letters (tenant_id, stage, item, error_class, reason, message, resolved_at)
SELECT tenant_id, 'media_objects', id, 'MediaMissing', 'missing', 'm', CASE WHEN message_id % 200 = 0 THEN now() END
FROM posts WHERE message_id % 50 = 0;
UPDATE tenant_storage_usage SET total_bytes = abs(hashtext(id::text)) % 1000000000, reconciled_at = now();
INSERT INTO budget_windows (scope, period, provider, starts_on, used_tokens)
SELECT s.id, 'day', '', (now() AT TIME ZONE 'UTC')::date - n, 100000
FROM (SELECT id FROM tenants UNION ALL SELECT 'ffffffff-ffff-ffff-ffff-ffffffffffff') s, generate_series(0, 89) n;
INSERT INTO budget_windows (scope, period, provider, starts_on, used_tokens)
SELECT s.id, 'month', '', (date_trunc('month', now() AT TIME ZONE 'UTC') - n * interval '1 month')::date, 3000000
FROM (SELECT id FROM tenants UNION ALL SELECT 'ffffffff-ffff-ffff-ffff-ffffffffffff') s, generate_series(0, 2) n;
INSERT INTO counters (tenant_id, name, labels, value)
SELECT t.id, c.name, jsonb_build_object(c.label, c.value), 1000
FROM tenants t, (VALUES
    ('storage_quota_violations_total', 'reason', 2), ('vision_budget_gate_blocks_total', 'reason', 3),
    ('storage_quota_check_duration_seconds', 'le', 5), ('storage_quota_check_duration_microseconds_total', 'x', 1),
    ('storage_puts_total', 'content_type', 2), ('vision_media_total', 'reason', 6),
    ('vision_policy_decisions_total', 'reason', 4), ('vision_reuse_decisions_total', 'reason', 6),
    ('vision_analyses_total', 'model', 1), ('vision_analysis_duration_milliseconds_total', 'model', 1),
    ('vision_analysis_duration_seconds', 'le', 6), ('media_references_total', 'state', 4),
    ('posts_enriched_total', 'status', 2), ('search_upserts_total', 'x', 1)
) AS k (name, label, labels)
CROSS JOIN LATERAL (
    SELECT k.name, k.label,
           CASE k.label WHEN 'le' THEN (ARRAY['0.1', '0.25', '0.5', '1.0', '2.5', '5.0'])[n] ELSE 'v' || n END AS value
    FROM generate_series(1, k.labels) n
) c;
