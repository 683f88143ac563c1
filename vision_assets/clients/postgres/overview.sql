-- name: totals(tenant_id)^
-- How one tenant stands, in figures.
SELECT
    (SELECT count(*) FROM posts WHERE tenant_id = :tenant_id) AS posts,
    (SELECT count(*) FROM post_media WHERE tenant_id = :tenant_id) AS media_references,
    (SELECT count(*) FROM media_objects WHERE tenant_id = :tenant_id) AS media_objects,
    (SELECT count(*) FROM vision_results WHERE tenant_id = :tenant_id AND result IS NOT NULL) AS results,
    (SELECT count(*) FROM vision_results WHERE tenant_id = :tenant_id AND method = 'near_duplicate') AS reused,
    (SELECT count(*) FROM post_enrichment WHERE tenant_id = :tenant_id) AS posts_enriched,
    (SELECT count(*) FROM search_index WHERE tenant_id = :tenant_id AND state = 'indexed') AS points,
    (SELECT count(*) FROM dead_letters WHERE tenant_id = :tenant_id AND resolved_at IS NULL) AS dead_letters;

-- name: by_state(tenant_id)
-- References of one tenant by state and reason.
SELECT concat_ws(': ', state, reason) AS name, count(*) AS value FROM post_media WHERE tenant_id = :tenant_id
GROUP BY 1 ORDER BY 2 DESC, 1;

-- name: by_kind(tenant_id)
-- Results of one tenant by kind of picture.
SELECT result ->> 'classification' AS name, count(*) AS value FROM vision_results
WHERE tenant_id = :tenant_id AND result IS NOT NULL
GROUP BY 1 ORDER BY 2 DESC, 1;

-- name: by_ocr_status(tenant_id)
-- Results of one tenant by what became of their text.
SELECT CASE WHEN result #>> '{ocr,status}' <> 'ok' THEN result #>> '{ocr,status}'
            WHEN result #>> '{ocr,text}' <> '' THEN 'found' ELSE 'none' END AS name,
       count(*) AS value
FROM vision_results WHERE tenant_id = :tenant_id AND result IS NOT NULL
GROUP BY 1 ORDER BY 2 DESC, 1;

-- name: by_decision(tenant_id)
-- Pictures of one tenant that the policy keeps from the provider, for good or for now, by verdict and reason.
SELECT concat_ws(': ', verdict, reason) AS name, count(*) AS value FROM vision_decisions WHERE tenant_id = :tenant_id
GROUP BY 1 ORDER BY 2 DESC, 1;

-- name: bytes_by_type(tenant_id)
-- Stored bytes of one tenant by content type.
SELECT content_type AS name, total_bytes AS value FROM tenant_storage_usage WHERE tenant_id = :tenant_id
ORDER BY content_type;

-- name: texts(tenant_id, row_limit)
-- Texts that were found in one tenant's pictures, longest first.
SELECT DISTINCT ON (length(text), text) text FROM (
    SELECT result #>> '{ocr,text}' AS text FROM vision_results
    WHERE tenant_id = :tenant_id AND method = 'new'
) found
WHERE text <> ''
ORDER BY length(text) DESC, text
LIMIT :row_limit;

-- name: counters(tenant_id)^
-- One tenant's counters, summed over the labels that are not asked for.
SELECT
    coalesce(sum(value) FILTER (WHERE name = 'storage_puts_total'), 0)::bigint AS puts,
    coalesce(sum(value) FILTER (WHERE name = 'vision_media_total' AND labels ->> 'reason' = 'new'), 0)::bigint
        AS analyses,
    coalesce(sum(value) FILTER (WHERE name = 'vision_media_total' AND labels ->> 'reason' = 'near_duplicate'),
             0)::bigint AS reused,
    coalesce(sum(value) FILTER (WHERE name = 'search_upserts_total'), 0)::bigint AS upserts
FROM counters WHERE tenant_id = :tenant_id;
