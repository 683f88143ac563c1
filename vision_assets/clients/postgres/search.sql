-- name: posts_to_index(encoder_version, tenant_id, after_seq, collection, row_limit)
-- Posts of one tenant whose content, encoder or collection is not what was recorded, in the order of the posts.
SELECT * FROM (
    SELECT
        p.id AS post_id, p.seq, p.posted_at, p.text,
        coalesce(c.username, c.title) AS channel,
        coalesce(e.data, '{}'::jsonb) AS enrichment,
        md5(concat_ws(E'\x1f', p.text, coalesce(e.params_hash, ''), coalesce(c.username, c.title), :encoder_version::text))
            AS content_hash
    FROM posts p
    JOIN channels c ON c.tenant_id = p.tenant_id AND c.id = p.channel_id
    LEFT JOIN post_enrichment e ON e.tenant_id = p.tenant_id AND e.post_id = p.id AND e.kind = 'vision'
    WHERE p.tenant_id = :tenant_id AND p.seq > :after_seq
) content
WHERE NOT EXISTS (
    SELECT FROM search_index s
    WHERE s.tenant_id = :tenant_id AND s.post_id = content.post_id
      AND s.content_hash = content.content_hash AND s.collection = :collection
)
ORDER BY seq
LIMIT :row_limit;

-- name: record_indexed(collection, post_ids, content_hashes, reasons, tenant_id)!
-- Keeps what lies in the collection; a post that was deleted meanwhile is left out.
INSERT INTO search_index (tenant_id, post_id, collection, content_hash, state, reason)
SELECT p.tenant_id, p.id, :collection, entry.content_hash,
       CASE WHEN entry.reason IS NULL THEN 'indexed' ELSE 'skipped' END, entry.reason
FROM unnest(:post_ids::uuid[], :content_hashes::text[], :reasons::text[]) AS entry (post_id, content_hash, reason)
JOIN posts p ON p.tenant_id = :tenant_id AND p.id = entry.post_id
ON CONFLICT (tenant_id, post_id) DO UPDATE SET
    collection = excluded.collection, content_hash = excluded.content_hash,
    state = excluded.state, reason = excluded.reason, indexed_at = now();

-- name: count_indexed(collection, tenant_id)
-- How all posts of one tenant stand: a row a state and reason, both null for posts that were not recorded.
SELECT s.state, s.reason, count(*) AS posts, min(p.seq) AS first_seq
FROM posts p
LEFT JOIN search_index s ON s.tenant_id = p.tenant_id AND s.post_id = p.id AND s.collection = :collection
WHERE p.tenant_id = :tenant_id
GROUP BY s.state, s.reason;

-- name: deleted_posts(tenant_id, post_ids)
-- Those of some posts that are not the tenant's, or not there any more.
SELECT one.post_id FROM unnest(:post_ids::uuid[]) AS one (post_id)
WHERE NOT EXISTS (SELECT FROM posts p WHERE p.tenant_id = :tenant_id AND p.id = one.post_id);

-- name: indexed_posts(tenant_id, collection)
-- Posts of one tenant that were recorded as indexed.
SELECT post_id FROM search_index WHERE tenant_id = :tenant_id AND collection = :collection AND state = 'indexed';

-- name: forget_indexed(tenant_id, post_ids)!
-- Drops records, so that their posts are indexed again.
DELETE FROM search_index WHERE tenant_id = :tenant_id AND post_id = ANY(:post_ids::uuid[]);
