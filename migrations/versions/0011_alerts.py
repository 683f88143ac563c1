"""Alerts: what is wrong now, what people are told of it, and what became of each message on its way.

Revision ID: 0011
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE alert_states (                   -- of each check and partition, and of each work that ever failed
    source          text NOT NULL CHECK (source IN ('check', 'run')),
    subject         text NOT NULL,            -- the asset, or the job
    check_name      text NOT NULL,            -- empty: of a run
    partition_key   text NOT NULL,            -- empty: it has none
    severity        text CHECK (severity IN ('warn', 'error')),   -- null: all is well
    failed_as       text CHECK (failed_as IN ('warn', 'error')),  -- the severity, or the last one that it had
    message         text NOT NULL,
    run_id          text NOT NULL,            -- empty: evaluated without a run
    evaluated_at    timestamptz NOT NULL,     -- the newest evaluation that was taken in, and its id in Dagster's log
    event_id        bigint NOT NULL,
    opened_at       timestamptz,
    told_at         timestamptz,              -- of the last word about what is open
    changes         timestamptz[] NOT NULL,   -- within the window of flapping
    is_flapping     boolean NOT NULL,
    PRIMARY KEY (source, subject, check_name, partition_key),
    CHECK (num_nulls(severity, opened_at) IN (0, 2))
);
CREATE INDEX alert_states_open ON alert_states (source) WHERE severity IS NOT NULL OR is_flapping;

CREATE TABLE alert_messages (
    seq         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- the order in which people are told
    id          uuid NOT NULL UNIQUE,         -- receivers may know it again by this
    kind        text NOT NULL,
    source      text NOT NULL,
    subject     text NOT NULL,
    check_name  text NOT NULL,
    grouped     boolean NOT NULL,             -- one for many partitions
    created_at  timestamptz NOT NULL
);
CREATE INDEX alert_messages_created ON alert_messages (created_at);

CREATE TABLE alert_events (                   -- each change that people are told of, once
    source          text NOT NULL,
    subject         text NOT NULL,
    check_name      text NOT NULL,
    partition_key   text NOT NULL,
    event           text NOT NULL,            -- what brought it: an evaluation, or the lapse of a time
    seq             bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    kind            text NOT NULL,
    severity        text CHECK (severity IN ('warn', 'error')),
    failed_as       text NOT NULL CHECK (failed_as IN ('warn', 'error')),
    message         text NOT NULL,
    run_id          text NOT NULL,
    opened_at       timestamptz NOT NULL,
    happened_at     timestamptz NOT NULL,
    tenant          text,                     -- name of the partition's
    message_seq     bigint REFERENCES alert_messages (seq) ON DELETE CASCADE,  -- null: waits for its group
    PRIMARY KEY (source, subject, check_name, partition_key, event)
);
CREATE INDEX alert_events_waiting ON alert_events (seq) WHERE message_seq IS NULL;
CREATE INDEX alert_events_message ON alert_events (message_seq);

CREATE TABLE alert_deliveries (
    message_seq  bigint NOT NULL REFERENCES alert_messages (seq) ON DELETE CASCADE,
    channel      text NOT NULL CHECK (channel IN ('telegram', 'webhook')),
    state        text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'sending', 'sent', 'failed', 'unknown')),
    parts_sent   integer NOT NULL DEFAULT 0,  -- of a message that is too long for one
    attempts     integer NOT NULL DEFAULT 0,
    next_at      timestamptz NOT NULL,
    ended_at     timestamptz,
    error        text,
    PRIMARY KEY (message_seq, channel)
);
CREATE INDEX alert_deliveries_due ON alert_deliveries (channel, message_seq) WHERE state IN ('pending', 'sending');
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute("DROP TABLE alert_deliveries, alert_events, alert_messages, alert_states")
