"""What tenants have to do, and who takes them through the chain.

Revision ID: 0010
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE tenant_changes (                 -- a row a tenant and statement; a turn removes those that it has seen
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    since       bigint NOT NULL DEFAULT 0,     -- seq of the first post that is concerned; 2^63 - 1: none is
    is_untold   boolean NOT NULL DEFAULT false  -- a run that ended has not told of what it did
);
CREATE INDEX tenant_changes_tenant ON tenant_changes (tenant_id, id);

CREATE TABLE tenant_turns (                   -- who works on a tenant, or how the last turn ended
    tenant_id   uuid PRIMARY KEY REFERENCES tenants (id) ON DELETE CASCADE,
    run_id      text,                         -- that has the turn; null: nobody
    free_at     timestamptz NOT NULL,         -- nobody takes it before: a run has it, or it rests after a failure
    began_at    timestamptz NOT NULL,
    attempts    integer NOT NULL CHECK (attempts >= 0),  -- since a turn ended well or did something, this one too
    error       text,                         -- of the last turn; null: it went well
    untold_by   text[] NOT NULL DEFAULT '{}', -- runs that have yet to tell of what they did
    swept_at    timestamptz                   -- when a turn last looked at every post
);

-- EXCEPT, not a join of the two: its plan is kept for all statements, and must do for one row and for a million.
CREATE FUNCTION add_to_tenant_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' AND TG_TABLE_NAME = 'posts' THEN
        INSERT INTO tenant_changes (tenant_id, since) SELECT tenant_id, min(seq) FROM added GROUP BY tenant_id;
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO tenant_changes (tenant_id, since)
        SELECT a.tenant_id, min(p.seq) FROM added a JOIN posts p ON p.id = a.post_id GROUP BY a.tenant_id;
    ELSIF TG_OP = 'DELETE' AND TG_TABLE_NAME = 'post_media' THEN  -- those of a post that goes itself are its change
        INSERT INTO tenant_changes (tenant_id, since)
        SELECT r.tenant_id, min(p.seq) FROM removed r JOIN posts p ON p.id = r.post_id GROUP BY r.tenant_id;
    ELSIF TG_OP = 'DELETE' THEN  -- of a tenant that goes itself nothing is kept
        INSERT INTO tenant_changes (tenant_id, since)
        SELECT DISTINCT r.tenant_id, 9223372036854775807 FROM removed r JOIN tenants t ON t.id = r.tenant_id;
    ELSIF TG_TABLE_NAME = 'posts' THEN
        INSERT INTO tenant_changes (tenant_id, since)
        SELECT tenant_id, min(seq) FROM (
            SELECT tenant_id, seq, id, channel_id, grouped_id, text FROM added
            EXCEPT SELECT tenant_id, seq, id, channel_id, grouped_id, text FROM removed) changed
        GROUP BY tenant_id;
    ELSIF TG_TABLE_NAME = 'post_media' THEN  -- what becomes of a reference that was to do is no change
        INSERT INTO tenant_changes (tenant_id, since)
        SELECT c.tenant_id, min(p.seq) FROM (
            SELECT tenant_id, post_id, position, source_uri FROM added WHERE state = 'pending'
            EXCEPT SELECT tenant_id, post_id, position, source_uri FROM removed WHERE state = 'pending') c
        JOIN posts p ON p.id = c.post_id
        GROUP BY c.tenant_id;
    ELSE  -- a channel: its name is searched for with each of its posts
        INSERT INTO tenant_changes (tenant_id)
        SELECT DISTINCT tenant_id FROM (
            SELECT tenant_id, id, username, title FROM added EXCEPT SELECT tenant_id, id, username, title FROM removed
        ) changed;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER posts_inserted AFTER INSERT ON posts
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION add_to_tenant_changes();
CREATE TRIGGER posts_updated AFTER UPDATE ON posts
    REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION add_to_tenant_changes();
CREATE TRIGGER posts_deleted AFTER DELETE ON posts
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION add_to_tenant_changes();
CREATE TRIGGER post_media_inserted AFTER INSERT ON post_media
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION add_to_tenant_changes();
CREATE TRIGGER post_media_updated AFTER UPDATE ON post_media
    REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION add_to_tenant_changes();
CREATE TRIGGER post_media_deleted AFTER DELETE ON post_media
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION add_to_tenant_changes();
CREATE TRIGGER channels_updated AFTER UPDATE ON channels
    REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION add_to_tenant_changes();

-- A tenant that rests because its settings are wrong need not wait once they are put right.
CREATE FUNCTION end_tenant_rest() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tenant_turns SET free_at = now() WHERE tenant_id = NEW.id AND run_id IS NULL AND free_at > now();
    RETURN NULL;
END $$;
CREATE TRIGGER tenants_settled AFTER UPDATE OF settings, active ON tenants FOR EACH ROW
    WHEN ((OLD.settings, OLD.active) IS DISTINCT FROM (NEW.settings, NEW.active)) EXECUTE FUNCTION end_tenant_rest();

INSERT INTO tenant_changes (tenant_id) SELECT id FROM tenants t WHERE EXISTS (SELECT FROM posts WHERE tenant_id = t.id);

-- Whether a tenant has a picture that is due is asked of one tenant after the other.
DROP INDEX vision_decisions_due;
CREATE INDEX vision_decisions_due ON vision_decisions (tenant_id, due_at) WHERE due_at IS NOT NULL;
"""

DOWN = """
DROP INDEX vision_decisions_due;
CREATE INDEX vision_decisions_due ON vision_decisions (due_at) WHERE due_at IS NOT NULL;
DROP TRIGGER tenants_settled ON tenants;
DROP FUNCTION end_tenant_rest;
DROP FUNCTION add_to_tenant_changes CASCADE;
DROP TABLE tenant_turns;
DROP TABLE tenant_changes;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
