-- name: claim(run_id, lease, row_limit)^
-- Give a run the active tenant that has waited longest and that nobody has, with the changes that stand now; they stand
-- for all that was committed before. After a turn that broke off or failed, and once a day, every post may be concerned.
-- `is_won` is false when somebody else was faster. Those who are not to be taken are listed once, and not looked up for
-- each of their changes, of which there may be many before the first one that counts.
WITH next AS (
    SELECT c.tenant_id
    FROM tenant_changes c
    WHERE c.tenant_id NOT IN (
        SELECT tenant_id FROM tenant_turns WHERE free_at > now()
        UNION ALL SELECT id FROM tenants WHERE NOT active)
    ORDER BY c.id
    LIMIT 1
), taken AS (
    INSERT INTO tenant_turns AS w (tenant_id, run_id, free_at, began_at, attempts)
    SELECT tenant_id, :run_id, now() + :lease, clock_timestamp(), 1 FROM next
    ON CONFLICT (tenant_id) DO UPDATE SET
        run_id = excluded.run_id, free_at = excluded.free_at, began_at = excluded.began_at, attempts = w.attempts + 1
    WHERE w.free_at <= now()
    RETURNING w.tenant_id, w.began_at, w.attempts,
              w.attempts > 1 OR w.swept_at IS NULL OR w.swept_at < now() - interval '1 day' AS sweeps
)
SELECT t.id, t.name, t.settings, taken.began_at, taken.attempts, taken.tenant_id IS NOT NULL AS is_won,
       CASE WHEN taken.sweeps THEN 0 ELSE seen.since END AS since, seen.change_ids, seen.is_untold
FROM next
JOIN tenants t ON t.id = next.tenant_id
LEFT JOIN taken ON taken.tenant_id = next.tenant_id
CROSS JOIN LATERAL (
    SELECT array_agg(c.id) AS change_ids, min(c.since) AS since, bool_or(c.is_untold) AS is_untold
    FROM (SELECT id, since, is_untold FROM tenant_changes WHERE tenant_id = t.id ORDER BY id LIMIT :row_limit) c
) seen;

-- name: prolong(run_id, lease, tenant_ids, began_at)!
-- Keep what a run still has.
UPDATE tenant_turns w SET free_at = now() + :lease
FROM unnest(:tenant_ids::uuid[], :began_at::timestamptz[]) AS own (tenant_id, began_at)
WHERE w.tenant_id = own.tenant_id AND w.began_at = own.began_at AND w.run_id = :run_id;

-- name: end_turn(tenant_id, run_id, began_at, attempts, rest, error, change_ids, more_since, is_told, has_swept)$
-- End a turn that the run still has, and tell whether it had it: the changes that it has seen go. Where something is left
-- to do, one stands for them all, as old as they are, at the end of the line. What the run has yet to tell of is kept.
WITH ended AS (
    UPDATE tenant_turns SET
        run_id = NULL, free_at = now() + :rest, error = :error, attempts = :attempts,
        swept_at = CASE WHEN :has_swept::boolean THEN began_at ELSE swept_at END,
        untold_by = array_remove(untold_by, :run_id) || CASE WHEN :is_told::boolean THEN '{}' ELSE ARRAY[:run_id] END
    WHERE tenant_id = :tenant_id AND run_id = :run_id AND began_at = :began_at
    RETURNING tenant_id
), seen AS (
    DELETE FROM tenant_changes c USING ended
    WHERE c.tenant_id = ended.tenant_id AND c.id = ANY(:change_ids::bigint[])
    RETURNING c.tenant_id, c.changed_at, c.is_untold
), left_over AS (
    INSERT INTO tenant_changes (tenant_id, changed_at, since, is_untold)
    SELECT tenant_id, min(changed_at), :more_since::bigint, bool_or(is_untold) AND :error::text IS NOT NULL
    FROM seen WHERE :more_since IS NOT NULL GROUP BY tenant_id
)
SELECT EXISTS (SELECT FROM ended);

-- name: give_back(tenant_id, run_id, began_at)!
-- End a turn that was broken off: what it has seen stays, and it stays an attempt.
UPDATE tenant_turns SET run_id = NULL, free_at = now()
WHERE tenant_id = :tenant_id AND run_id = :run_id AND began_at = :began_at;

-- name: told(run_id, tenant_ids)!
-- A run has told of all that it did for these tenants.
UPDATE tenant_turns SET untold_by = array_remove(untold_by, :run_id)
WHERE tenant_id = ANY(:tenant_ids::uuid[]) AND :run_id = ANY(untold_by);

-- name: owing()
-- The runs that have yet to tell of something.
SELECT DISTINCT unnest(untold_by) AS run_id FROM tenant_turns;

-- name: add_untold(run_ids, no_post)!
-- Enter the tenants of whose turns these runs have not told, and will not.
WITH owed AS (
    UPDATE tenant_turns SET
        untold_by = array(SELECT run_id FROM unnest(untold_by) run_id WHERE run_id <> ALL(:run_ids::text[]))
    WHERE untold_by && :run_ids::text[]
    RETURNING tenant_id
)
INSERT INTO tenant_changes (tenant_id, since, is_untold)
SELECT tenant_id, :no_post::bigint, true FROM owed ORDER BY tenant_id;

-- name: taken()
-- The turns that runs have, and how many in succession did not end well before.
SELECT tenant_id, run_id, attempts FROM tenant_turns WHERE run_id IS NOT NULL;

-- name: take_back(tenant_ids, rests, run_ids)!
-- End the turns of runs that have ended without ending them; their tenants rest.
UPDATE tenant_turns w SET run_id = NULL, free_at = now() + lost.rest, error = 'The run ended in the middle of the turn.'
FROM unnest(:tenant_ids::uuid[], :rests::interval[], :run_ids::text[]) AS lost (tenant_id, rest, run_id)
WHERE w.tenant_id = lost.tenant_id AND w.run_id = lost.run_id;

-- name: add_due(now, no_post)!
-- Enter the active tenants with a deferred picture whose time has come and that are not in line. One whose last turn has
-- left the picture as it was comes again after an hour.
INSERT INTO tenant_changes (tenant_id, changed_at, since)
SELECT t.id, due.at, :no_post::bigint
FROM tenants t
LEFT JOIN tenant_turns w ON w.tenant_id = t.id
CROSS JOIN LATERAL (
    SELECT d.due_at AS at FROM vision_decisions d
    WHERE d.tenant_id = t.id AND d.due_at <= :now
      AND (w.tenant_id IS NULL OR d.due_at > w.began_at OR w.began_at < :now::timestamptz - interval '1 hour')
    ORDER BY d.due_at
    LIMIT 1
) due
WHERE t.active AND coalesce(w.free_at, '-infinity') <= now()
  AND NOT EXISTS (SELECT FROM tenant_changes c WHERE c.tenant_id = t.id);

-- name: first_waiting()^
-- The first change in line whose tenant may be taken now, and for how many seconds it might have been.
SELECT c.id, extract(epoch FROM clock_timestamp() - greatest(c.changed_at, w.free_at))::float8 AS seconds
FROM (
    SELECT id, tenant_id, changed_at
    FROM tenant_changes
    WHERE tenant_id NOT IN (
        SELECT tenant_id FROM tenant_turns WHERE free_at > now()
        UNION ALL SELECT id FROM tenants WHERE NOT active)
    ORDER BY id
    LIMIT 1
) c
LEFT JOIN tenant_turns w ON w.tenant_id = c.tenant_id;

-- name: standing(tenant_id)
-- The tenants, or the one, that are in line, at work, or whose last turn did not end well; who waits longest first.
SELECT t.name AS tenant, t.active, c.since, w.run_id, w.attempts, w.error, w.free_at,
       w.run_id IS NULL AND w.free_at > now() AS rests
FROM tenants t
CROSS JOIN LATERAL (SELECT min(changed_at) AS since FROM tenant_changes WHERE tenant_id = t.id) c
LEFT JOIN tenant_turns w ON w.tenant_id = t.id
WHERE (:tenant_id::uuid IS NULL OR t.id = :tenant_id)
  AND (c.since IS NOT NULL OR w.run_id IS NOT NULL OR w.error IS NOT NULL)
ORDER BY c.since NULLS LAST, t.name;

-- name: end_rests(tenant_id)
-- Let tenants be taken at once that rest after a failure.
UPDATE tenant_turns w SET free_at = now()
FROM tenants t
WHERE t.id = w.tenant_id AND w.run_id IS NULL AND w.free_at > now()
  AND (:tenant_id::uuid IS NULL OR w.tenant_id = :tenant_id)
RETURNING t.name AS tenant;

-- name: well(partitions)
-- Those of the tenants whose last turn that has ended went well.
SELECT tenant_id::text AS partition_key FROM tenant_turns
WHERE tenant_id::text = ANY(:partitions::text[]) AND error IS NULL;
