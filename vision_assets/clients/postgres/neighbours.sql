-- name: near(tenant_id, sha256s, phashes, post_seqs, positions, chunk0, chunk1, chunk2, chunk3, algorithm, provider, model, schema_version, fingerprint, radius_bits, row_limit, reuse_limit)
-- For each of the pictures: others of the tenant whose hash is within the radius and that appeared earlier, nearest first.
-- Those that have a result of their own, as many that have none yet (a text read for want of a budget is none), so that these
-- keep no donor out, and a few of those that took another's; and one row without a hash if a later picture is within the radius.
-- `chunk0` and so on hold what those bits of a hash may differ by. The tenant leads every index used; those of the chunks hold
-- hashes alone, and the few within the radius lead to their pictures. A planner cannot guess how few bit_count() leaves, so
-- each further table is looked up row by row. It sees what is asked only behind sub-selects: of a tenant that its statistics
-- do not know yet it would expect no row, and read all by the primary key; and knowing the arrays' lengths it would plan each
-- question anew, which takes longer than to answer it.
SELECT asked.sha256 AS of_sha256, found.*
FROM unnest((SELECT :sha256s::text[]), (SELECT :phashes::bigint[]), (SELECT :post_seqs::bigint[]),
            (SELECT :positions::int[])) AS asked (sha256, phash, post_seq, position)
CROSS JOIN LATERAL (
    WITH candidates AS (
        SELECT phash FROM phash_index
        WHERE tenant_id = (SELECT :tenant_id::uuid) AND flags = '{}' AND ((phash >> 0) & 65535) = ANY(ARRAY(
            SELECT ((asked.phash >> 0) & 65535) # bits FROM unnest((SELECT :chunk0::bigint[])) AS differing (bits)))
        UNION
        SELECT phash FROM phash_index
        WHERE tenant_id = (SELECT :tenant_id::uuid) AND flags = '{}' AND ((phash >> 16) & 131071) = ANY(ARRAY(
            SELECT ((asked.phash >> 16) & 131071) # bits FROM unnest((SELECT :chunk1::bigint[])) AS differing (bits)))
        UNION
        SELECT phash FROM phash_index
        WHERE tenant_id = (SELECT :tenant_id::uuid) AND flags = '{}' AND ((phash >> 33) & 131071) = ANY(ARRAY(
            SELECT ((asked.phash >> 33) & 131071) # bits FROM unnest((SELECT :chunk2::bigint[])) AS differing (bits)))
        UNION
        SELECT phash FROM phash_index
        WHERE tenant_id = (SELECT :tenant_id::uuid) AND flags = '{}' AND ((phash >> 50) & 16383) = ANY(ARRAY(
            SELECT ((asked.phash >> 50) & 16383) # bits FROM unnest((SELECT :chunk3::bigint[])) AS differing (bits)))
    ), placed AS MATERIALIZED (
        SELECT n.sha256, bit_count((c.phash # asked.phash)::bit(64)) AS distance_bits, o.*,
               (o.first_post_seq, o.first_position, n.sha256) < (asked.post_seq, asked.position, asked.sha256)
                   AS is_earlier
        FROM candidates c
        CROSS JOIN LATERAL (
            SELECT sha256 FROM phash_index
            WHERE tenant_id = (SELECT :tenant_id::uuid) AND flags = '{}' AND phash = c.phash
            OFFSET 0
        ) n
        CROSS JOIN LATERAL (
            SELECT first_post_seq, first_position, width, height FROM media_objects
            WHERE tenant_id = :tenant_id AND sha256 = n.sha256
            LIMIT 1
        ) o
        WHERE bit_count((c.phash # asked.phash)::bit(64)) <= :radius_bits AND n.sha256 <> asked.sha256
    ), earlier AS MATERIALIZED (
        SELECT p.*, r.method,
               row_number() OVER (PARTITION BY coalesce(r.method, '') = 'near_duplicate', coalesce(r.is_answer, false)
                                  ORDER BY p.distance_bits, p.first_post_seq, p.first_position, p.sha256) AS place
        FROM placed p
        LEFT JOIN LATERAL (
            SELECT method, result IS NOT NULL AS is_answer FROM vision_results
            WHERE tenant_id = :tenant_id AND sha256 = p.sha256 AND provider = :provider AND model = :model
              AND schema_version = :schema_version AND fingerprint = :fingerprint
            LIMIT 1
        ) r ON true
        WHERE p.is_earlier
    )
    SELECT e.sha256, e.first_post_seq, e.first_position, e.width, e.height, e.method, e.place, h.phash, h.phash256,
           h.thumbnail, r.result
    FROM earlier e
    CROSS JOIN LATERAL (
        SELECT phash, phash256, thumbnail FROM phash_index
        WHERE tenant_id = :tenant_id AND sha256 = e.sha256 AND algorithm = :algorithm
        LIMIT 1
    ) h
    LEFT JOIN LATERAL (
        SELECT result FROM vision_results
        WHERE tenant_id = :tenant_id AND sha256 = e.sha256 AND provider = :provider AND model = :model
          AND schema_version = :schema_version AND fingerprint = :fingerprint AND method = 'new'
        LIMIT 1
    ) r ON true
    WHERE e.place <= CASE e.method WHEN 'near_duplicate' THEN :reuse_limit::int ELSE :row_limit::int END
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    WHERE EXISTS (SELECT FROM placed WHERE NOT is_earlier)
) found
ORDER BY asked.sha256, found.place;
