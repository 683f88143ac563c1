"""Billing: the storage's meter, tokens by day and model, what was billed; how often a dead letter was tried again.

Revision ID: 0012
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# ---- Storage -------------------------------------------------------------------------------------------------------
# No foreign keys to `tenants` in what is billed: it stays in the books when a tenant goes.

STORAGE = """
CREATE FUNCTION utc_day(moment timestamptz) RETURNS date LANGUAGE sql IMMUTABLE AS $$
    SELECT (moment AT TIME ZONE 'UTC')::date
$$;
CREATE FUNCTION utc_midnight(day date) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
    SELECT day::timestamp AT TIME ZONE 'UTC'
$$;

-- What a number of bytes adds up to while it stands, cut at each UTC midnight; exact to the microsecond.
CREATE FUNCTION byte_seconds_by_day(bytes bigint, since timestamptz, until timestamptz)
RETURNS TABLE (day date, byte_seconds numeric) LANGUAGE sql IMMUTABLE AS $$
    SELECT d.day::date, bytes * extract(epoch FROM
               least(until, utc_midnight(d.day::date + 1)) - greatest(since, utc_midnight(d.day::date)))
    FROM generate_series(utc_day(since)::timestamp, utc_day(until)::timestamp, interval '1 day') AS d (day)
    WHERE since < until AND utc_midnight(d.day::date) < until
$$;

ALTER TABLE tenant_storage_usage              -- the meter: what the ledger had, and for how long
    ADD COLUMN metered_bytes        bigint NOT NULL DEFAULT 0,   -- since metered_at
    ADD COLUMN metered_at           timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN metered_from         timestamptz NOT NULL DEFAULT now(),  -- nothing is billed from before
    ADD COLUMN metered_byte_seconds numeric NOT NULL DEFAULT 0;  -- of the UTC day of metered_at, until then
UPDATE tenant_storage_usage SET metered_bytes = total_bytes;

CREATE TABLE storage_days (                   -- days that the meter has left behind
    tenant_id       uuid NOT NULL,
    content_type    text NOT NULL,
    day             date NOT NULL,            -- UTC
    byte_seconds    numeric NOT NULL,
    PRIMARY KEY (tenant_id, content_type, day)
);

CREATE TABLE storage_corrections (            -- what the meter did not know at the time, and reconciliation found
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id       uuid NOT NULL,
    content_type    text NOT NULL,
    bytes           bigint NOT NULL CHECK (bytes <> 0),  -- what S3 had more than the books
    effective_from  timestamptz NOT NULL,
    corrected_at    timestamptz NOT NULL,     -- from then on the meter knows
    CHECK (effective_from < corrected_at)
);
CREATE INDEX storage_corrections_tenant ON storage_corrections (tenant_id);

-- Moves the meter in the update that moves the usage, so that nothing more is written for a put. It follows the ledger:
-- when somebody else writes to the table, as when a figure is put right, it takes the ledger's sum.
CREATE FUNCTION meter_storage() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := greatest(now(), old.metered_at);
    today date := utc_day(moment);
BEGIN
    new.metered_at := moment;
    IF utc_day(old.metered_at) = today THEN
        new.metered_byte_seconds :=
            old.metered_byte_seconds + old.metered_bytes * extract(epoch FROM moment - old.metered_at);
    ELSE
        INSERT INTO storage_days AS d (tenant_id, content_type, day, byte_seconds)
        SELECT old.tenant_id, old.content_type, s.day, sum(s.byte_seconds)
        FROM (SELECT utc_day(old.metered_at) AS day, old.metered_byte_seconds AS byte_seconds
              UNION ALL
              SELECT * FROM byte_seconds_by_day(old.metered_bytes, old.metered_at, utc_midnight(today))) s
        GROUP BY s.day
        ON CONFLICT (tenant_id, content_type, day) DO UPDATE SET byte_seconds = d.byte_seconds + excluded.byte_seconds;
        new.metered_byte_seconds := old.metered_bytes * extract(epoch FROM moment - utc_midnight(today));
    END IF;
    IF pg_trigger_depth() > 1 THEN  -- the ledger's own trigger
        new.metered_bytes := old.metered_bytes + new.total_bytes - old.total_bytes;
    ELSE
        SELECT coalesce(sum(bytes), 0) INTO new.metered_bytes FROM storage_objects
        WHERE tenant_id = old.tenant_id AND content_type = old.content_type;
    END IF;
    RETURN new;
END $$;
CREATE TRIGGER tenant_storage_usage_metered BEFORE UPDATE OF total_bytes ON tenant_storage_usage
    FOR EACH ROW WHEN (old.total_bytes <> new.total_bytes) EXECUTE FUNCTION meter_storage();
"""

STORAGE_BACK = """
DROP TRIGGER tenant_storage_usage_metered ON tenant_storage_usage;
DROP FUNCTION meter_storage;
DROP TABLE storage_corrections, storage_days;
ALTER TABLE tenant_storage_usage
    DROP COLUMN metered_bytes, DROP COLUMN metered_at, DROP COLUMN metered_from, DROP COLUMN metered_byte_seconds;
DROP FUNCTION byte_seconds_by_day, utc_midnight, utc_day;
"""

# ---- Tokens --------------------------------------------------------------------------------------------------------

TOKENS = """
CREATE TABLE token_days (                     -- the day's window of the budget, by model; moved with it
    tenant_id           uuid NOT NULL,
    day                 date NOT NULL,        -- UTC, of the hold
    provider            text NOT NULL,
    model               text NOT NULL,
    tokens              bigint NOT NULL DEFAULT 0 CHECK (tokens >= 0),  -- of settled calls, as billed
    calls               bigint NOT NULL DEFAULT 0 CHECK (calls >= 0),
    unconfirmed_tokens  bigint NOT NULL DEFAULT 0,  -- of expired holds, as estimated; a late settle takes them back
    unconfirmed_calls   bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, day, provider, model)
) WITH (fillfactor = 50);
INSERT INTO token_days (tenant_id, day, provider, model, unconfirmed_tokens, unconfirmed_calls)
SELECT tenant_id, day, provider, model, sum(estimated_tokens), count(*) FROM budget_holds WHERE expired
GROUP BY 1, 2, 3, 4;
"""

# As of revision 0002, but for what stands in place of {by_model}.
SETTLE = """
CREATE OR REPLACE FUNCTION settle_budget(ids uuid[], actuals bigint[], tokens_step bigint)
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
    ){by_model}, counted AS (
        INSERT INTO token_counts AS t (provider, model, prompt, tokens, calls)
        SELECT e.provider, e.model, e.prompt, (e.tokens + tokens_step - 1) / tokens_step * tokens_step, count(*)
        FROM ended e WHERE e.tokens > 0 GROUP BY 1, 2, 3, 4
        ON CONFLICT (provider, model, prompt, tokens) DO UPDATE SET calls = t.calls + excluded.calls
    )
    SELECT e.place, e.expired FROM ended e;
END $$;
"""

SETTLED_BY_MODEL = """, by_model AS (
        INSERT INTO token_days AS t (tenant_id, day, provider, model, tokens, calls,
                                     unconfirmed_tokens, unconfirmed_calls)
        SELECT e.tenant_id, e.day, e.provider, e.model, coalesce(sum(e.tokens), 0), count(e.tokens),
               -coalesce(sum(e.estimated_tokens) FILTER (WHERE e.expired), 0), -count(*) FILTER (WHERE e.expired)
        FROM ended e WHERE e.tokens IS NOT NULL OR e.expired GROUP BY 1, 2, 3, 4
        ON CONFLICT (tenant_id, day, provider, model) DO UPDATE SET
            tokens = t.tokens + excluded.tokens, calls = t.calls + excluded.calls,
            unconfirmed_tokens = t.unconfirmed_tokens + excluded.unconfirmed_tokens,
            unconfirmed_calls = t.unconfirmed_calls + excluded.unconfirmed_calls
    )"""

EXPIRE = """
CREATE OR REPLACE FUNCTION expire_budget(ids uuid[], OUT holds bigint, OUT tokens bigint) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM lock_budget();
    WITH charged AS (
        UPDATE budget_holds h SET expired = true WHERE h.id = ANY(ids) AND NOT h.expired
        RETURNING h.tenant_id, h.provider, h.model, h.day, h.estimated_tokens
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
    ){by_model}
    SELECT count(*), coalesce(sum(e.estimated_tokens), 0) INTO holds, tokens FROM charged e;
END $$;
"""

EXPIRED_BY_MODEL = """, by_model AS (
        INSERT INTO token_days AS t (tenant_id, day, provider, model, unconfirmed_tokens, unconfirmed_calls)
        SELECT e.tenant_id, e.day, e.provider, e.model, sum(e.estimated_tokens), count(*)
        FROM charged e GROUP BY 1, 2, 3, 4
        ON CONFLICT (tenant_id, day, provider, model) DO UPDATE SET
            unconfirmed_tokens = t.unconfirmed_tokens + excluded.unconfirmed_tokens,
            unconfirmed_calls = t.unconfirmed_calls + excluded.unconfirmed_calls
    )"""

# ---- What was billed -----------------------------------------------------------------------------------------------

BILLED = """
CREATE TABLE billing_usage (
    tenant_id           uuid NOT NULL,
    day                 date NOT NULL,             -- UTC
    meter               text NOT NULL CHECK (meter IN ('storage', 'vision')),
    content_type        text NOT NULL DEFAULT '',  -- of 'storage'
    provider            text NOT NULL DEFAULT '',  -- of 'vision'
    model               text NOT NULL DEFAULT '',
    revision            integer NOT NULL CHECK (revision > 0),  -- the highest one counts; earlier ones stay
    byte_seconds        numeric,
    gb_hours            numeric GENERATED ALWAYS AS (round(byte_seconds / (1073741824::numeric * 3600), 9)) STORED,
    tokens              bigint,                    -- as the provider billed them
    calls               bigint,
    unconfirmed_tokens  bigint,                    -- at most; of calls of which nobody knows whether they were billed
    unconfirmed_calls   bigint,
    price_per_million   numeric,                   -- of tokens, in force when the day was first billed; null: not known
    currency            text,
    cost_microunits     bigint,                    -- of `tokens`, in millionths of the currency
    billed_at           timestamptz NOT NULL,
    seq                 bigint GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (tenant_id, day, meter, content_type, provider, model, revision),
    CHECK (num_nonnulls(byte_seconds, tokens) = 1 AND (meter = 'storage') = (byte_seconds IS NOT NULL)),
    CHECK (num_nulls(tokens, calls, unconfirmed_tokens, unconfirmed_calls) IN (0, 4)),
    CHECK (num_nulls(price_per_million, currency, cost_microunits) IN (0, 3))
);

CREATE VIEW billing_usage_latest AS
SELECT DISTINCT ON (tenant_id, day, meter, content_type, provider, model) * FROM billing_usage
ORDER BY tenant_id, day, meter, content_type, provider, model, revision DESC;

CREATE TABLE billing_exports (                -- months whose files are in S3
    tenant_id   uuid NOT NULL,
    month       date NOT NULL,                -- its first day
    seq         bigint NOT NULL,              -- of the newest row in them
    exported_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, month)
);
"""

# ---- Dead letters --------------------------------------------------------------------------------------------------

DEAD_LETTERS = """
ALTER TABLE dead_letters
    ADD COLUMN retries     integer NOT NULL DEFAULT 0,  -- how often it was made to do again, since it last went through
    ADD COLUMN reopened_at timestamptz;                 -- it is to do again, and nobody has tried yet
CREATE INDEX dead_letters_open ON dead_letters (tenant_id, stage) WHERE resolved_at IS NULL;
UPDATE dead_letters d SET resolved_at = now()  -- of pictures that were lost, and are there again
WHERE stage = 'phash_index' AND resolved_at IS NULL
  AND EXISTS (SELECT FROM phash_index h WHERE h.tenant_id = d.tenant_id AND h.sha256 = d.item);
"""

DEAD_LETTERS_BACK = """
DROP INDEX dead_letters_open;
ALTER TABLE dead_letters DROP COLUMN retries, DROP COLUMN reopened_at;
"""


def upgrade() -> None:
    op.execute(STORAGE)
    op.execute(TOKENS)
    op.execute(SETTLE.replace("{by_model}", SETTLED_BY_MODEL))
    op.execute(EXPIRE.replace("{by_model}", EXPIRED_BY_MODEL))
    op.execute(BILLED)
    op.execute(DEAD_LETTERS)


def downgrade() -> None:
    op.execute(DEAD_LETTERS_BACK)
    op.execute("DROP VIEW billing_usage_latest")
    op.execute("DROP TABLE billing_exports, billing_usage")
    op.execute(EXPIRE.replace("{by_model}", ""))
    op.execute(SETTLE.replace("{by_model}", ""))
    op.execute("DROP TABLE token_days")
    op.execute(STORAGE_BACK)
