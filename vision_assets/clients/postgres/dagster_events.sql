-- name: prune_events(before, row_limit)!
-- Deletes old events that carry no asset: steps' logs and the engine's own. Materializations and checks stay, because
-- partition states and plots are made of them; what was only planned goes.
DELETE FROM event_logs WHERE id IN (
    SELECT id FROM event_logs
    WHERE timestamp < :before AND (asset_key IS NULL OR dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED')
    LIMIT :row_limit
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
-- When each asset was last materialized, for whichever partition or none.
SELECT k.asset_key, NULL AS partition, e.timestamp
FROM asset_keys k
CROSS JOIN LATERAL (
    SELECT timestamp FROM event_logs
    WHERE asset_key = k.asset_key AND dagster_event_type = 'ASSET_MATERIALIZATION'
    ORDER BY id DESC LIMIT 1
) e;
