-- name: prune_events(before, row_limit)!
-- Deletes old events that carry no asset: steps' logs and the engine's own. Materializations and checks stay, because
-- partition states and plots are made of them; what was only planned goes.
DELETE FROM event_logs WHERE id IN (
    SELECT id FROM event_logs
    WHERE timestamp < :before AND (asset_key IS NULL OR dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED')
    LIMIT :row_limit
);
