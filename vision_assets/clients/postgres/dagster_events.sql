-- name: prune_events(after_id, before, kept, row_limit)^
-- Deletes what is old among the next events, in the order in which they were written: steps' logs, the engine's own, what
-- was only planned, and of what became of an asset all but the newest few of each partition, as states and plots are made
-- of these. Tells how many went, the last one looked at, and whether anything there was old. One place after the other,
-- since there is no index on times.
WITH batch AS MATERIALIZED (
    SELECT id, timestamp < :before AS is_old, dagster_event_type AS type, asset_key, partition FROM event_logs
    WHERE id > :after_id
    ORDER BY id
    LIMIT :row_limit
), oldest_kept AS MATERIALIZED (
    SELECT k.*, e.id
    FROM (
        SELECT DISTINCT type, asset_key, partition FROM batch
        WHERE is_old AND asset_key IS NOT NULL AND type <> 'ASSET_MATERIALIZATION_PLANNED'
    ) k
    CROSS JOIN LATERAL (
        (SELECT id FROM event_logs
         WHERE asset_key = k.asset_key AND dagster_event_type = k.type AND partition = k.partition
         ORDER BY id DESC OFFSET :kept::int - 1 LIMIT 1)
        UNION ALL
        (SELECT id FROM event_logs
         WHERE asset_key = k.asset_key AND dagster_event_type = k.type AND partition IS NULL AND k.partition IS NULL
         ORDER BY id DESC OFFSET :kept::int - 1 LIMIT 1)
    ) e
), gone AS (
    DELETE FROM event_logs WHERE id IN (
        SELECT b.id FROM batch b
        LEFT JOIN oldest_kept o
               ON o.type = b.type AND o.asset_key = b.asset_key AND o.partition IS NOT DISTINCT FROM b.partition
        WHERE b.is_old
          AND (b.asset_key IS NULL OR b.type = 'ASSET_MATERIALIZATION_PLANNED' OR b.id < o.id))
    RETURNING id
), tags AS (
    DELETE FROM asset_event_tags WHERE event_id IN (SELECT id FROM gone)
)
SELECT (SELECT count(*) FROM gone) AS deleted, max(id) AS last_id, coalesce(bool_or(is_old), false) AS has_old
FROM batch;

-- name: prune_checks(before, kept)!
-- Deletes old outcomes of asset checks, but for the newest few of each check and partition: states are made of these.
DELETE FROM asset_check_executions WHERE id IN (
    SELECT id
    FROM (
        SELECT id, coalesce(evaluation_event_timestamp, create_timestamp) AS at,
               row_number() OVER (PARTITION BY asset_key, check_name, partition ORDER BY id DESC) AS place
        FROM asset_check_executions
    ) ranked
    WHERE at < :before AND place > :kept
);

-- name: has_tables()$
-- Whether Dagster has been here yet.
SELECT to_regclass('event_logs') IS NOT NULL AND to_regclass('asset_keys') IS NOT NULL;

-- name: last_materializations(partitions)
-- When each asset was last materialized for each of these partitions, where it was: one look into Dagster's own index
-- each.
SELECT k.asset_key, p.partition, e.timestamp
FROM asset_keys k
CROSS JOIN unnest(:partitions::text[]) AS p (partition)
CROSS JOIN LATERAL (
    SELECT timestamp FROM event_logs
    WHERE asset_key = k.asset_key AND dagster_event_type = 'ASSET_MATERIALIZATION' AND partition = p.partition
    ORDER BY id DESC LIMIT 1
) e;

-- name: newest_materializations()
-- When each asset was last materialized, for whichever partition or none. The order is that of Dagster's index, as one by
-- the id alone may be read through the whole log for an asset that is seldom or never made.
SELECT k.asset_key, NULL AS partition, e.timestamp
FROM asset_keys k
CROSS JOIN LATERAL (
    SELECT asset_key, dagster_event_type, timestamp FROM event_logs
    WHERE asset_key IS NOT NULL
      AND (asset_key, dagster_event_type, id) <= (k.asset_key, 'ASSET_MATERIALIZATION', 9223372036854775807)
    ORDER BY asset_key DESC, dagster_event_type DESC, id DESC
    LIMIT 1
) e
WHERE e.asset_key = k.asset_key AND e.dagster_event_type = 'ASSET_MATERIALIZATION';
