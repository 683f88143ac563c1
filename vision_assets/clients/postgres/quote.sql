-- name: in_storage(tenant_id, sha256s, s3_keys, provider, model, schema_version, fingerprint)
-- Pictures whose result is counted as lying in S3, unless their row says that it is an answer to another question.
SELECT p.sha256
FROM unnest(:sha256s::text[], :s3_keys::text[]) AS p (sha256, s3_key)
CROSS JOIN LATERAL (
    SELECT FROM storage_objects WHERE tenant_id = :tenant_id AND s3_key = p.s3_key AND bytes IS NOT NULL LIMIT 1
) o
WHERE NOT EXISTS (
    SELECT FROM vision_results r
    WHERE r.tenant_id = :tenant_id AND r.sha256 = p.sha256 AND r.provider = :provider AND r.model = :model
      AND r.schema_version = :schema_version AND r.fingerprint <> :fingerprint);

-- name: pace(tenant_id, provider, model)^
-- How many of a tenant's pictures a provider has looked at, and how long that took.
SELECT coalesce(sum(value) FILTER (WHERE name = 'vision_analyses_total'), 0)::bigint AS calls,
       coalesce(sum(value) FILTER (WHERE name = 'vision_analysis_duration_milliseconds_total'), 0)::bigint
           AS milliseconds
FROM counters
WHERE tenant_id = :tenant_id AND name IN ('vision_analyses_total', 'vision_analysis_duration_milliseconds_total')
  AND labels = jsonb_build_object('model', :model::text, 'provider', :provider::text);
