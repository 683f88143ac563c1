-- name: has_more_hashes(tenant_id, than)$
-- Whether one tenant has more hashes that may be matched than so many.
SELECT EXISTS (SELECT FROM phash_index WHERE tenant_id = :tenant_id AND flags = '{}' OFFSET :than::bigint);

-- name: fingerprints(tenant_id, sha256s, algorithm)
-- What is compared of pictures of one tenant.
SELECT p.sha256, h.phash, h.phash256, h.thumbnail, o.width, o.height
FROM unnest(:sha256s::text[]) AS p (sha256)
CROSS JOIN LATERAL (
    SELECT phash, phash256, thumbnail FROM phash_index
    WHERE tenant_id = :tenant_id AND sha256 = p.sha256 AND algorithm = :algorithm
    LIMIT 1
) h
CROSS JOIN LATERAL (
    SELECT width, height FROM media_objects WHERE tenant_id = :tenant_id AND sha256 = p.sha256 LIMIT 1
) o;

-- name: sizes(tenant_id, sha256s)
-- What is summed up of pictures of one tenant.
SELECT p.sha256, o.bytes, o.width::bigint * o.height AS pixels, o.first_seen_at
FROM unnest(:sha256s::text[]) AS p (sha256)
CROSS JOIN LATERAL (
    SELECT bytes, width, height, first_seen_at FROM media_objects
    WHERE tenant_id = :tenant_id AND sha256 = p.sha256
    LIMIT 1
) o;

-- name: pictures(tenant_id, sha256s, algorithm)
-- Pictures of one tenant as they are shown, with the first post of each that a public channel has.
SELECT o.sha256, o.mime, o.bytes AS size_bytes, o.width, o.height, o.first_seen_at, o.s3_key, h.thumbnail, post.username,
       post.message_id
FROM unnest(:sha256s::text[]) AS p (sha256)
CROSS JOIN LATERAL (
    SELECT * FROM media_objects WHERE tenant_id = :tenant_id AND sha256 = p.sha256 LIMIT 1
) o
CROSS JOIN LATERAL (
    SELECT thumbnail FROM phash_index
    WHERE tenant_id = :tenant_id AND sha256 = p.sha256 AND algorithm = :algorithm
    LIMIT 1
) h
LEFT JOIN LATERAL (
    SELECT c.username, posts.message_id
    FROM post_media m
    JOIN posts ON posts.tenant_id = :tenant_id AND posts.id = m.post_id
    JOIN channels c ON c.tenant_id = :tenant_id AND c.id = posts.channel_id AND c.username IS NOT NULL
    WHERE m.tenant_id = :tenant_id AND m.sha256 = p.sha256
    ORDER BY posts.seq, m.position
    LIMIT 1
) post ON true;
