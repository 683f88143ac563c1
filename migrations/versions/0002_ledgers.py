"""Ledgers: operation slots and totals of the storage, its limits; windows, holds and limits of the token budget.

Revision ID: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# ---- Storage -------------------------------------------------------------------------------------------------------

STORAGE = """
ALTER TABLE storage_objects
    ALTER COLUMN bytes DROP NOT NULL,          -- null: not known to lie in S3
    ADD COLUMN op_id     uuid,                 -- the one operation that may be under way on this key
    ADD COLUMN op_kind   text CHECK (op_kind IN ('put', 'delete', 'verify')),
    ADD COLUMN op_bytes  bigint CHECK (op_bytes >= 0),  -- of the object that is being put
    ADD COLUMN op_delta  bigint CHECK (op_delta >= 0),  -- bytes held against the limits until it is committed
    ADD COLUMN op_until  timestamptz,          -- afterwards it is taken over and the object looked at, never assumed
    ADD CONSTRAINT ck_storage_objects_operation
        CHECK (num_nulls(op_id, op_kind, op_delta, op_until) IN (0, 4)),
    ADD CONSTRAINT ck_storage_objects_something CHECK (bytes IS NOT NULL OR op_id IS NOT NULL);
CREATE INDEX storage_objects_operations ON storage_objects (tenant_id, op_until) WHERE op_id IS NOT NULL;
CREATE INDEX storage_objects_age ON storage_objects (content_type, recorded_at);

ALTER TABLE tenant_storage_usage
    ADD COLUMN reserved_bytes bigint NOT NULL DEFAULT 0,
    ADD COLUMN reconciled_at  timestamptz,     -- when the figures were last held against a full listing
    ADD CONSTRAINT ck_tenant_storage_usage_reserved CHECK (reserved_bytes >= 0),
    SET (fillfactor = 50);                     -- hot rows: room for their next versions on the same page

CREATE TABLE storage_totals (                  -- of all tenants together: what the bucket's and the types' limits bound
    content_type    text PRIMARY KEY CHECK (content_type IN ('media', 'vision', 'crawl')),
    total_bytes     bigint NOT NULL DEFAULT 0 CHECK (total_bytes >= 0),
    reserved_bytes  bigint NOT NULL DEFAULT 0 CHECK (reserved_bytes >= 0),
    objects_count   bigint NOT NULL DEFAULT 0 CHECK (objects_count >= 0)
) WITH (fillfactor = 20);

CREATE TABLE storage_limits (                  -- what a tenant may store, where it differs from the settings
    tenant_id       uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    content_type    text NOT NULL CHECK (content_type IN ('all', 'media', 'vision', 'crawl')),
    limit_bytes     bigint NOT NULL CHECK (limit_bytes >= 0),
    PRIMARY KEY (tenant_id, content_type)
);

-- A tenant has a usage row for each type from its first moment, so "nothing stored" is a figure and never an absence.
CREATE FUNCTION add_tenant_storage_usage() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tenant_storage_usage (tenant_id, content_type)
    SELECT id, content_type FROM added, unnest(ARRAY['crawl', 'media', 'vision']) AS content_type
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER tenants_inserted AFTER INSERT ON tenants
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION add_tenant_storage_usage();
INSERT INTO tenant_storage_usage (tenant_id, content_type)
SELECT id, content_type FROM tenants, unnest(ARRAY['crawl', 'media', 'vision']) AS content_type
ON CONFLICT DO NOTHING;
INSERT INTO storage_totals (content_type, total_bytes, objects_count)
SELECT content_type, coalesce(sum(o.bytes), 0), count(o.bytes)
FROM unnest(ARRAY['crawl', 'media', 'vision']) AS content_type
LEFT JOIN storage_objects o USING (content_type)
GROUP BY content_type;

-- Usage, reservations and totals are sums of the object ledger by construction: whoever changes it moves them by
-- exactly the difference. The tenants' rows are locked before the totals, always. The time of the last update is true
-- to the second: it is indexed, and an update that leaves it alone leaves the indexes alone.
CREATE OR REPLACE FUNCTION add_to_tenant_storage_usage() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changes jsonb;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        UPDATE tenant_storage_usage SET total_bytes = 0, reserved_bytes = 0, objects_count = 0;
        UPDATE storage_totals SET total_bytes = 0, reserved_bytes = 0, objects_count = 0;
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' THEN
        SELECT jsonb_agg(c) INTO changes FROM (
            SELECT tenant_id, content_type, sum(coalesce(bytes, 0)) AS bytes, count(bytes) AS objects,
                   sum(coalesce(op_delta, 0)) AS reserved
            FROM added GROUP BY 1, 2) c;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT jsonb_agg(c) INTO changes FROM (
            SELECT tenant_id, content_type, -sum(coalesce(bytes, 0)) AS bytes, -count(bytes) AS objects,
                   -sum(coalesce(op_delta, 0)) AS reserved
            FROM removed GROUP BY 1, 2) c;
    ELSE  -- the key, and with it the type, of a row never changes
        SELECT jsonb_agg(c) INTO changes FROM (
            SELECT tenant_id, a.content_type, sum(coalesce(a.bytes, 0) - coalesce(r.bytes, 0)) AS bytes,
                   count(a.bytes) - count(r.bytes) AS objects,
                   sum(coalesce(a.op_delta, 0) - coalesce(r.op_delta, 0)) AS reserved
            FROM added a JOIN removed r USING (tenant_id, s3_key) GROUP BY 1, 2) c;
    END IF;
    IF changes IS NULL THEN
        RETURN NULL;
    END IF;
    UPDATE tenant_storage_usage u SET
        total_bytes = u.total_bytes + c.bytes,
        objects_count = u.objects_count + c.objects,
        reserved_bytes = u.reserved_bytes + c.reserved,
        last_updated = CASE WHEN (c.bytes, c.objects) <> (0, 0) AND u.last_updated < now() - interval '1 second'
                            THEN now() ELSE u.last_updated END
    FROM jsonb_to_recordset(changes)
        AS c (tenant_id uuid, content_type text, bytes bigint, objects bigint, reserved bigint)
    WHERE u.tenant_id = c.tenant_id AND u.content_type = c.content_type
      AND (c.bytes, c.objects, c.reserved) <> (0, 0, 0);
    UPDATE storage_totals t SET
        total_bytes = t.total_bytes + c.bytes,
        objects_count = t.objects_count + c.objects,
        reserved_bytes = t.reserved_bytes + c.reserved
    FROM (
        SELECT content_type, sum(bytes)::bigint AS bytes, sum(objects)::bigint AS objects,
               sum(reserved)::bigint AS reserved
        FROM jsonb_to_recordset(changes) AS c (content_type text, bytes bigint, objects bigint, reserved bigint)
        GROUP BY 1) c
    WHERE t.content_type = c.content_type AND (c.bytes, c.objects, c.reserved) <> (0, 0, 0);
    RETURN NULL;
END $$;
CREATE TRIGGER storage_objects_truncated AFTER TRUNCATE ON storage_objects
    FOR EACH STATEMENT EXECUTE FUNCTION add_to_tenant_storage_usage();

ALTER TABLE vision_results ADD COLUMN s3_evicted_at timestamptz;  -- the result stands here alone, on purpose
"""

STORAGE_BACK = """
ALTER TABLE vision_results DROP COLUMN s3_evicted_at;
DELETE FROM storage_objects WHERE bytes IS NULL;
DROP TRIGGER storage_objects_truncated ON storage_objects;
DROP TRIGGER tenants_inserted ON tenants;
DROP FUNCTION add_tenant_storage_usage;
DROP TABLE storage_limits;
DROP TABLE storage_totals;
ALTER TABLE tenant_storage_usage DROP COLUMN reserved_bytes, DROP COLUMN reconciled_at, RESET (fillfactor);
DROP INDEX storage_objects_age;
ALTER TABLE storage_objects
    DROP COLUMN op_id, DROP COLUMN op_kind, DROP COLUMN op_bytes, DROP COLUMN op_delta, DROP COLUMN op_until,
    ALTER COLUMN bytes SET NOT NULL;
CREATE OR REPLACE FUNCTION add_to_tenant_storage_usage() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO tenant_storage_usage AS u (tenant_id, content_type, total_bytes, objects_count)
        SELECT tenant_id, content_type, sum(bytes), count(*) FROM added GROUP BY 1, 2 ORDER BY 1, 2
        ON CONFLICT (tenant_id, content_type) DO UPDATE SET
            total_bytes = u.total_bytes + excluded.total_bytes,
            objects_count = u.objects_count + excluded.objects_count,
            last_updated = now();
    ELSIF TG_OP = 'DELETE' THEN
        UPDATE tenant_storage_usage u SET
            total_bytes = u.total_bytes - gone.bytes,
            objects_count = u.objects_count - gone.objects,
            last_updated = now()
        FROM (SELECT tenant_id, content_type, sum(bytes) AS bytes, count(*) AS objects FROM removed GROUP BY 1, 2) gone
        WHERE u.tenant_id = gone.tenant_id AND u.content_type = gone.content_type;
    ELSE
        UPDATE tenant_storage_usage u SET
            total_bytes = u.total_bytes + changed.bytes,
            last_updated = now()
        FROM (SELECT tenant_id, a.content_type, sum(a.bytes - r.bytes) AS bytes
              FROM added a JOIN removed r USING (tenant_id, s3_key) GROUP BY 1, 2) changed
        WHERE u.tenant_id = changed.tenant_id AND u.content_type = changed.content_type;
    END IF;
    RETURN NULL;
END $$;
"""

# ---- Budget --------------------------------------------------------------------------------------------------------
# A scope is a tenant, or the Max UUID for all tenants together. No foreign keys to `tenants`: what was spent stays in
# the books when a tenant goes.

BUDGET = """
CREATE TABLE budget_limits (                   -- where they differ from the settings
    scope       uuid NOT NULL,
    period      text NOT NULL CHECK (period IN ('day', 'month', 'calls')),
    tokens      bigint CHECK (tokens >= 0),    -- null: as the settings say
    requests    bigint CHECK (requests >= 0),  -- of 'calls': at once
    PRIMARY KEY (scope, period),
    CHECK (period <> 'calls' OR tokens IS NULL),
    CHECK (num_nonnulls(tokens, requests) > 0)
);

CREATE TABLE budget_windows (
    scope           uuid NOT NULL,
    period          text NOT NULL CHECK (period IN ('day', 'month', 'calls')),
    provider        text NOT NULL,             -- of 'calls'; '' for day and month, which bound all providers together
    starts_on       date NOT NULL,             -- UTC; of 'calls' the epoch: calls under way belong to no period
    used_tokens     bigint NOT NULL DEFAULT 0 CHECK (used_tokens >= 0),
    held_tokens     bigint NOT NULL DEFAULT 0 CHECK (held_tokens >= 0),
    used_requests   bigint NOT NULL DEFAULT 0 CHECK (used_requests >= 0),
    held_requests   bigint NOT NULL DEFAULT 0 CHECK (held_requests >= 0),
    overrun_tokens  bigint NOT NULL DEFAULT 0 CHECK (overrun_tokens >= 0),  -- used above the estimates
    phantom_tokens  bigint NOT NULL DEFAULT 0 CHECK (phantom_tokens >= 0),  -- used for holds that expired
    PRIMARY KEY (scope, period, provider, starts_on),
    CHECK ((period = 'calls') = (provider <> ''))
) WITH (fillfactor = 20);

CREATE TABLE budget_holds (
    id                uuid PRIMARY KEY,        -- chosen by the caller: a repeated reserve is the same hold
    tenant_id         uuid NOT NULL,
    provider          text NOT NULL CHECK (provider <> ''),
    model             text NOT NULL,
    prompt            text NOT NULL,           -- fingerprint
    subject           text,                    -- what the call is about: one live hold each, so one call at a time
    attempt           smallint NOT NULL DEFAULT 1,
    day               date NOT NULL,           -- its windows are this day's and month's, whenever it settles
    estimated_tokens  bigint NOT NULL CHECK (estimated_tokens >= 0),
    reserved_at       timestamptz NOT NULL,
    expires_at        timestamptz NOT NULL,
    expired           boolean NOT NULL DEFAULT false  -- charged at its estimate; a late settle corrects it
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX budget_holds_subject ON budget_holds (tenant_id, subject) WHERE subject IS NOT NULL AND NOT expired;
CREATE INDEX budget_holds_attempts ON budget_holds (tenant_id, subject) WHERE subject IS NOT NULL AND expired;
CREATE INDEX budget_holds_live ON budget_holds (tenant_id, expires_at) WHERE NOT expired;

CREATE TABLE token_counts (                    -- settled calls by what they took, to learn the estimate from
    provider    text NOT NULL,
    model       text NOT NULL,
    prompt      text NOT NULL,
    tokens      bigint NOT NULL CHECK (tokens >= 0),  -- rounded up
    calls       bigint NOT NULL CHECK (calls > 0),
    PRIMARY KEY (provider, model, prompt, tokens)
);

-- Whoever moves windows takes this lock before anything else. Every hold moves the windows of all tenants together, so
-- they go one by one anyhow; with one lock, taken first, they cannot deadlock, not even over windows of a new day.
CREATE FUNCTION lock_budget() RETURNS void LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(hashtextextended('vision_assets: token budget', 0))
$$;

-- The windows in which a hold counts.
CREATE FUNCTION budget_windows_of(tenant_id uuid, provider text, day date)
RETURNS TABLE (scope uuid, period text, of_provider text, starts_on date) LANGUAGE sql IMMUTABLE AS $$
    SELECT s.scope, p.period, p.of_provider, p.starts_on
    FROM (VALUES (tenant_id), ('ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)) AS s (scope)
    CROSS JOIN (
        VALUES ('calls', provider, date '1970-01-01'), ('day', '', day),
               ('month', '', date_trunc('month', day::timestamp)::date)
    ) AS p (period, of_provider, starts_on)
$$;

-- The three below are functions because each statement of a function sees what is there when that statement begins: so
-- they can wait for the lock and look then. A single statement would look first.

-- Makes a whole batch of holds if all of it fits, else none: then it is decided one by one. `kinds` point, from 1, into
-- providers, models and prompts. Limits are those that hold where `budget_limits` has none.
CREATE FUNCTION hold_budget(
    ids uuid[], tenant_ids uuid[], kinds smallint[], subjects text[], attempts smallint[], estimates bigint[],
    providers text[], models text[], prompts text[], limit_global boolean[], limit_periods text[],
    limit_tokens bigint[], limit_requests bigint[], today date, reserved timestamptz, expires timestamptz
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    all_fits boolean;
    missing bigint;
BEGIN
    PERFORM lock_budget();
    LOOP
        WITH wanted AS MATERIALIZED (
            SELECT h.id, h.tenant_id, providers[h.kind] AS provider, models[h.kind] AS model,
                   prompts[h.kind] AS prompt, h.subject, h.attempt, h.tokens
            FROM unnest(ids, tenant_ids, kinds, subjects, attempts, estimates)
                AS h (id, tenant_id, kind, subject, attempt, tokens)
        ), move AS MATERIALIZED (
            SELECT k.scope, k.period, k.of_provider, k.starts_on,
                   sum(c.tokens)::bigint AS tokens, sum(c.requests)::bigint AS requests
            FROM (
                SELECT tenant_id, provider, sum(tokens) AS tokens, count(*) AS requests FROM wanted GROUP BY 1, 2
            ) c
            CROSS JOIN LATERAL budget_windows_of(c.tenant_id, c.provider, today) k
            GROUP BY 1, 2, 3, 4
        ), decision AS MATERIALIZED (
            SELECT count(*) - count(w.scope) AS missing,
                   bool_and(
                       (coalesce(w.used_tokens + w.held_tokens, 0) + m.tokens <= coalesce(l.tokens, d.tokens))
                           IS NOT FALSE
                       AND (coalesce(CASE WHEN m.period = 'calls' THEN 0 ELSE w.used_requests END + w.held_requests, 0)
                            + m.requests <= coalesce(l.requests, d.requests)) IS NOT FALSE
                   ) AND NOT EXISTS (
                       SELECT FROM wanted v
                       WHERE v.subject IS NOT NULL AND (
                           EXISTS (SELECT FROM budget_holds h
                                   WHERE h.tenant_id = v.tenant_id AND h.subject = v.subject AND NOT h.expired)
                           OR v.attempt <> 1 + (
                               SELECT count(*) FROM budget_holds h
                               WHERE h.tenant_id = v.tenant_id AND h.subject = v.subject AND h.expired))
                   ) AS fits
            FROM move m
            JOIN unnest(limit_global, limit_periods, limit_tokens, limit_requests)
                AS d (everyone, period, tokens, requests)
                ON d.period = m.period AND d.everyone = (m.scope = 'ffffffff-ffff-ffff-ffff-ffffffffffff')
            LEFT JOIN budget_windows w
                ON (w.scope, w.period, w.provider, w.starts_on) = (m.scope, m.period, m.of_provider, m.starts_on)
            LEFT JOIN budget_limits l ON l.scope = m.scope AND l.period = m.period
        ), opened AS (
            INSERT INTO budget_windows (scope, period, provider, starts_on)
            SELECT m.scope, m.period, m.of_provider, m.starts_on FROM move m, decision d WHERE d.fits AND d.missing > 0
            ON CONFLICT DO NOTHING
        ), held AS (
            INSERT INTO budget_holds (id, tenant_id, provider, model, prompt, subject, attempt, estimated_tokens, day,
                                      reserved_at, expires_at)
            SELECT v.*, today, reserved, expires FROM wanted v, decision d WHERE d.fits AND d.missing = 0
        ), moved AS (
            UPDATE budget_windows w SET
                held_tokens = w.held_tokens + m.tokens,
                held_requests = w.held_requests + m.requests
            FROM move m, decision d
            WHERE d.fits AND d.missing = 0
              AND (w.scope, w.period, w.provider, w.starts_on) = (m.scope, m.period, m.of_provider, m.starts_on)
        )
        SELECT d.fits, d.missing INTO all_fits, missing FROM decision d;
        EXIT WHEN NOT all_fits OR missing = 0;
    END LOOP;
    RETURN all_fits;
END $$;

-- Ends holds, each exactly once because deleted is deleted, and moves the windows of the day on which each was made.
-- Actual null: the call was never sent. Gives the place (from 1) of each hold that was still there.
CREATE FUNCTION settle_budget(ids uuid[], actuals bigint[], tokens_step bigint)
RETURNS TABLE (place bigint, was_expired boolean) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM lock_budget();
    RETURN QUERY WITH ended AS (
        DELETE FROM budget_holds h
        USING unnest(ids, actuals) WITH ORDINALITY AS o (id, tokens, place)
        WHERE h.id = o.id
        RETURNING o.place, o.tokens, h.tenant_id, h.provider, h.model, h.prompt, h.day, h.estimated_tokens, h.expired
    ), move AS (
        SELECT k.scope, k.period, k.of_provider, k.starts_on, sum(c.used)::bigint AS used, sum(c.held)::bigint AS held,
               sum(c.calls)::bigint AS calls, sum(c.live)::bigint AS live, sum(c.overrun)::bigint AS overrun,
               sum(c.phantom)::bigint AS phantom
        FROM (
            SELECT e.tenant_id, e.provider, e.day,
                   -- an expired hold has been charged at its estimate already
                   sum(coalesce(e.tokens, 0) - CASE WHEN e.expired THEN e.estimated_tokens ELSE 0 END) AS used,
                   sum(CASE WHEN e.expired THEN 0 ELSE e.estimated_tokens END) AS held,
                   sum((e.tokens IS NOT NULL)::int - e.expired::int) AS calls,
                   sum((NOT e.expired)::int) AS live,
                   sum(greatest(e.tokens - e.estimated_tokens, 0)) AS overrun,
                   sum(CASE WHEN e.expired THEN e.estimated_tokens ELSE 0 END) AS phantom
            FROM ended e GROUP BY 1, 2, 3
        ) c
        CROSS JOIN LATERAL budget_windows_of(c.tenant_id, c.provider, c.day) k
        GROUP BY 1, 2, 3, 4
    ), moved AS (
        UPDATE budget_windows w SET
            used_tokens = w.used_tokens + m.used,
            held_tokens = w.held_tokens - m.held,
            used_requests = w.used_requests + m.calls,
            held_requests = w.held_requests - m.live,
            overrun_tokens = w.overrun_tokens + m.overrun,
            phantom_tokens = w.phantom_tokens - m.phantom
        FROM move m
        WHERE (w.scope, w.period, w.provider, w.starts_on) = (m.scope, m.period, m.of_provider, m.starts_on)
    ), counted AS (
        INSERT INTO token_counts AS t (provider, model, prompt, tokens, calls)
        SELECT e.provider, e.model, e.prompt, (e.tokens + tokens_step - 1) / tokens_step * tokens_step, count(*)
        FROM ended e WHERE e.tokens > 0 GROUP BY 1, 2, 3, 4
        ON CONFLICT (provider, model, prompt, tokens) DO UPDATE SET calls = t.calls + excluded.calls
    )
    SELECT e.place, e.expired FROM ended e;
END $$;

-- Charges overdue holds at their estimates, because the provider may have billed them; those that ended are let be.
CREATE FUNCTION expire_budget(ids uuid[], OUT holds bigint, OUT tokens bigint) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM lock_budget();
    WITH charged AS (
        UPDATE budget_holds h SET expired = true WHERE h.id = ANY(ids) AND NOT h.expired
        RETURNING h.tenant_id, h.provider, h.day, h.estimated_tokens
    ), move AS (
        SELECT k.scope, k.period, k.of_provider, k.starts_on, sum(c.tokens)::bigint AS tokens,
               sum(c.calls)::bigint AS calls
        FROM (
            SELECT e.tenant_id, e.provider, e.day, sum(e.estimated_tokens) AS tokens, count(*) AS calls
            FROM charged e GROUP BY 1, 2, 3
        ) c
        CROSS JOIN LATERAL budget_windows_of(c.tenant_id, c.provider, c.day) k
        GROUP BY 1, 2, 3, 4
    ), moved AS (
        UPDATE budget_windows w SET
            used_tokens = w.used_tokens + m.tokens,
            held_tokens = w.held_tokens - m.tokens,
            used_requests = w.used_requests + m.calls,
            held_requests = w.held_requests - m.calls,
            phantom_tokens = w.phantom_tokens + m.tokens
        FROM move m
        WHERE (w.scope, w.period, w.provider, w.starts_on) = (m.scope, m.period, m.of_provider, m.starts_on)
    )
    SELECT count(*), coalesce(sum(e.estimated_tokens), 0) INTO holds, tokens FROM charged e;
END $$;
"""

BUDGET_BACK = """
DROP FUNCTION expire_budget, settle_budget, hold_budget, budget_windows_of, lock_budget;
DROP TABLE token_counts, budget_holds, budget_windows, budget_limits;
"""


def upgrade() -> None:
    op.execute(STORAGE)
    op.execute(BUDGET)


def downgrade() -> None:
    op.execute(BUDGET_BACK)
    op.execute(STORAGE_BACK)
