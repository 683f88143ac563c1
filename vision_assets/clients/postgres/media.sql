-- name: count_unfinished(tenant_id)$
-- References of one tenant that are to do.
SELECT count(*) FROM post_media
WHERE tenant_id = :tenant_id AND state IN ('pending', 'blocked', 'missing') AND reason IS DISTINCT FROM 'not_exported';

-- name: unfinished(tenant_id, after_seq, after_position, row_limit, again)
-- References of one tenant that are to do, in the order of the posts. What an export left out is not looked for again.
SELECT m.post_id, m.position, p.seq AS post_seq, m.source_uri
FROM post_media m
JOIN posts p ON p.tenant_id = m.tenant_id AND p.id = m.post_id
WHERE m.tenant_id = :tenant_id
  AND m.state IN ('pending', 'blocked', 'missing') AND m.reason IS DISTINCT FROM 'not_exported'
  AND (m.state = 'pending' OR :again::boolean)
  AND p.seq >= :after_seq AND (p.seq, m.position) > (:after_seq, :after_position)
ORDER BY p.seq, m.position
LIMIT :row_limit;

-- name: find_object(tenant_id, sha256)^
-- One stored picture of one tenant whose object is counted as lying in S3. It counts as used from here on, so that no
-- clean-up takes it away before its reference is recorded.
UPDATE media_objects o SET last_used_at = now()
FROM storage_objects l
WHERE o.tenant_id = :tenant_id AND o.sha256 = :sha256
  AND l.tenant_id = o.tenant_id AND l.s3_key = o.s3_key AND l.bytes IS NOT NULL
RETURNING o.sha256, o.mime, o.bytes, o.width, o.height, o.frames, o.s3_key;

-- name: record_objects(tenant_id, sha256s, mimes, bytes, widths, heights, frames, s3_keys, measured, post_seqs, positions)!
-- Registers pictures; a known one keeps its row, with the earliest reference, the latest use and the newest figures.
INSERT INTO media_objects
    (tenant_id, sha256, mime, bytes, width, height, frames, s3_key, measured, first_post_seq, first_position)
SELECT :tenant_id, sha256, min(mime), min(bytes), min(width), min(height), min(frames), min(s3_key),
       (array_agg(measured))[1], (min(ARRAY[post_seq, position]))[1], (min(ARRAY[post_seq, position]))[2]
FROM unnest(:sha256s::text[], :mimes::text[], :bytes::bigint[], :widths::int[], :heights::int[], :frames::int[],
            :s3_keys::text[], :measured::jsonb[], :post_seqs::bigint[], :positions::bigint[])
     AS picture (sha256, mime, bytes, width, height, frames, s3_key, measured, post_seq, position)
GROUP BY sha256
ORDER BY sha256
ON CONFLICT (tenant_id, sha256) DO UPDATE SET
    last_used_at = now(),
    measured = coalesce(excluded.measured, media_objects.measured),
    (first_post_seq, first_position) = (
        SELECT least_seq, least_position
        FROM (VALUES (media_objects.first_post_seq, media_objects.first_position),
                     (excluded.first_post_seq, excluded.first_position)) AS seen (least_seq, least_position)
        ORDER BY 1, 2 LIMIT 1);

-- name: record_hashes(tenant_id, algorithm, sha256s, phashes, phash256s, thumbnails, qualities, flags)!
-- Writes hashes; one of another algorithm is replaced.
INSERT INTO phash_index (tenant_id, sha256, algorithm, phash, phash256, thumbnail, quality, flags)
SELECT DISTINCT ON (sha256) :tenant_id, sha256, :algorithm, phash, phash256, thumbnail, quality,
       coalesce(string_to_array(nullif(flags, ''), ','), '{}')
FROM unnest(:sha256s::text[], :phashes::bigint[], :phash256s::bytea[], :thumbnails::bytea[], :qualities::real[],
            :flags::text[])
     AS hashed (sha256, phash, phash256, thumbnail, quality, flags)
ORDER BY sha256
ON CONFLICT (tenant_id, sha256) DO UPDATE SET
    algorithm = excluded.algorithm, phash = excluded.phash, phash256 = excluded.phash256,
    thumbnail = excluded.thumbnail, quality = excluded.quality, flags = excluded.flags, hashed_at = now()
WHERE phash_index.algorithm <> excluded.algorithm;

-- name: record_states(post_ids, positions, source_uris, states, sha256s, reasons, errors, tenant_id)!
-- Writes what became of references, unless another run has stored them or an import has given them another source since.
UPDATE post_media m
SET state = outcome.state, sha256 = outcome.sha256, reason = outcome.reason, error = outcome.error
FROM unnest(:post_ids::uuid[], :positions::smallint[], :source_uris::text[], :states::text[], :sha256s::text[],
            :reasons::text[], :errors::text[])
     AS outcome (post_id, position, source_uri, state, sha256, reason, error)
WHERE m.tenant_id = :tenant_id AND m.post_id = outcome.post_id AND m.position = outcome.position
  AND m.source_uri = outcome.source_uri AND m.state <> 'stored';

-- name: reconsider(tenant_id, sha256s)!
-- Takes back that pictures are skipped: a further post shows them, and it may say otherwise.
DELETE FROM vision_decisions WHERE tenant_id = :tenant_id AND sha256 = ANY(:sha256s::text[]) AND verdict = 'skip';

-- name: unhashed(algorithm, tenant_id, after, row_limit)
-- Stored pictures of one tenant that have no hash of this algorithm. One that could not be hashed is left alone until
-- its dead letter is re-opened: its bytes are what they were.
SELECT o.sha256, o.mime, o.bytes, o.width, o.height, o.frames, o.s3_key
FROM media_objects o
LEFT JOIN phash_index h ON h.tenant_id = o.tenant_id AND h.sha256 = o.sha256 AND h.algorithm = :algorithm
WHERE o.tenant_id = :tenant_id AND h.sha256 IS NULL AND o.sha256 > :after
  AND NOT EXISTS (
    SELECT FROM dead_letters d
    WHERE d.tenant_id = o.tenant_id AND d.stage = 'phash_index' AND d.item = o.sha256 AND d.resolved_at IS NULL
      AND d.reopened_at IS NULL AND d.error_class <> 'MediaMissing')
ORDER BY o.sha256
LIMIT :row_limit;

-- name: reopen_references(tenant_id, sha256)!
-- Makes the references of a picture whose object is lost to do again.
UPDATE post_media SET state = 'pending', sha256 = NULL
WHERE tenant_id = :tenant_id AND sha256 = :sha256 AND state = 'stored';

-- name: forget_object(tenant_id, sha256)!
-- Removes a picture's row, with its hash and results.
DELETE FROM media_objects WHERE tenant_id = :tenant_id AND sha256 = :sha256;
