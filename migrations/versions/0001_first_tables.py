"""First tables: tenants, posts, media, results, enrichment, usage, search index, dead letters, counters.

Revision ID: 0001
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

UP = """
CREATE TABLE tenants (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name        text NOT NULL UNIQUE CHECK (name <> ''),
    active      boolean NOT NULL DEFAULT true,
    settings    jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE channels (
    id          uuid PRIMARY KEY,
    tenant_id   uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    source_key  text NOT NULL,          -- identity inside its source: 'telegram:1234', 'folder:<name>'
    username    text,
    title       text NOT NULL,
    UNIQUE (tenant_id, source_key),
    UNIQUE (tenant_id, id)              -- target of the tenant-safe foreign key below
);

CREATE TABLE posts (
    id              uuid PRIMARY KEY,
    tenant_id       uuid NOT NULL,
    channel_id      uuid NOT NULL,
    message_id      bigint NOT NULL,
    grouped_id      bigint,
    album_inferred  boolean NOT NULL DEFAULT false,
    posted_at       timestamptz NOT NULL,
    text            text NOT NULL DEFAULT '',
    engagement      jsonb NOT NULL DEFAULT '{}',
    seq             bigint GENERATED ALWAYS AS IDENTITY,
    FOREIGN KEY (tenant_id, channel_id) REFERENCES channels (tenant_id, id) ON DELETE CASCADE,
    UNIQUE (tenant_id, channel_id, message_id),
    UNIQUE (tenant_id, id)
);
CREATE INDEX posts_tenant_seq ON posts (tenant_id, seq);

CREATE TABLE post_media (
    post_id             uuid NOT NULL,
    position            smallint NOT NULL CHECK (position >= 0),
    tenant_id           uuid NOT NULL,
    message_id          bigint NOT NULL,      -- the album item's own message
    role                text NOT NULL CHECK (role IN ('photo', 'document')),
    source_uri          text NOT NULL,
    telegram_unique_id  text,
    sha256              text CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    state               text NOT NULL DEFAULT 'pending'
                        CHECK (state IN ('pending', 'stored', 'missing', 'rejected', 'blocked')),
    reason              text,                 -- machine-readable code of a state other than pending and stored
    error               text,                 -- the same for people: names the input and what to do
    PRIMARY KEY (post_id, position),
    FOREIGN KEY (tenant_id, post_id) REFERENCES posts (tenant_id, id) ON DELETE CASCADE,
    CHECK ((state = 'stored') = (sha256 IS NOT NULL))
);
CREATE INDEX post_media_unfinished ON post_media (tenant_id, post_id, position)
    WHERE state IN ('pending', 'blocked', 'missing');
CREATE INDEX post_media_sha256 ON post_media (tenant_id, sha256) WHERE sha256 IS NOT NULL;

CREATE TABLE media_objects (
    tenant_id       uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    sha256          text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    mime            text NOT NULL,
    bytes           bigint NOT NULL CHECK (bytes > 0),
    width           integer NOT NULL CHECK (width > 0),
    height          integer NOT NULL CHECK (height > 0),
    frames          integer NOT NULL DEFAULT 1 CHECK (frames > 0),
    s3_key          text NOT NULL UNIQUE,
    first_post_seq  bigint NOT NULL,          -- order of first appearance: donors of a reuse come earlier
    first_position  smallint NOT NULL,
    first_seen_at   timestamptz NOT NULL DEFAULT now(),
    last_used_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, sha256)
);
CREATE INDEX media_objects_order ON media_objects (tenant_id, first_post_seq, first_position, sha256);

CREATE TABLE phash_index (
    tenant_id   uuid NOT NULL,
    sha256      text NOT NULL,
    algorithm   text NOT NULL,                -- hashes of different algorithms are never compared
    phash       bigint NOT NULL,              -- 64-bit pHash, as a signed integer
    phash256    bytea NOT NULL CHECK (length(phash256) = 32),
    thumbnail   bytea NOT NULL CHECK (length(thumbnail) = 4096),  -- 64×64 luma
    flags       text[] NOT NULL DEFAULT '{}', -- why this hash must never be matched; empty = may be
    hashed_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, sha256),
    FOREIGN KEY (tenant_id, sha256) REFERENCES media_objects (tenant_id, sha256) ON DELETE CASCADE
);
CREATE INDEX phash_index_chunk0 ON phash_index (tenant_id, ((phash >> 0) & 65535))
    INCLUDE (phash, sha256) WHERE flags = '{}';
CREATE INDEX phash_index_chunk1 ON phash_index (tenant_id, ((phash >> 16) & 65535))
    INCLUDE (phash, sha256) WHERE flags = '{}';
CREATE INDEX phash_index_chunk2 ON phash_index (tenant_id, ((phash >> 32) & 65535))
    INCLUDE (phash, sha256) WHERE flags = '{}';
CREATE INDEX phash_index_chunk3 ON phash_index (tenant_id, ((phash >> 48) & 65535))
    INCLUDE (phash, sha256) WHERE flags = '{}';

CREATE TABLE vision_results (
    tenant_id       uuid NOT NULL,
    sha256          text NOT NULL,
    provider        text NOT NULL,
    model           text NOT NULL,
    schema_version  text NOT NULL,
    fingerprint     text NOT NULL,            -- of prompt, policy and code: a changed one is done again
    status          text NOT NULL CHECK (status IN ('ok', 'partial', 'error', 'skipped', 'blocked')),
    method          text NOT NULL CHECK (method IN ('new', 'cache_hit', 'near_duplicate', 'fallback', 'skipped')),
    reason          text,
    error           text,
    donor_sha256    text,
    distance_bits   smallint,
    result          jsonb,
    provenance      jsonb NOT NULL DEFAULT '{}',
    s3_key          text,
    s3_bytes        bigint CHECK (s3_bytes > 0),
    tokens_used     bigint NOT NULL DEFAULT 0 CHECK (tokens_used >= 0),
    cost_microunits bigint NOT NULL DEFAULT 0 CHECK (cost_microunits >= 0),
    analyzed_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, sha256, provider, model, schema_version),
    FOREIGN KEY (tenant_id, sha256) REFERENCES media_objects (tenant_id, sha256) ON DELETE CASCADE
);

CREATE TABLE post_enrichment (
    post_id     uuid NOT NULL,
    kind        text NOT NULL,
    tenant_id   uuid NOT NULL,
    provider    text NOT NULL,
    params_hash text NOT NULL,                -- of all inputs: an unchanged one is not done again
    data        jsonb NOT NULL,
    status      text NOT NULL CHECK (status IN ('ok', 'partial', 'error')),
    error       text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (post_id, kind),
    FOREIGN KEY (tenant_id, post_id) REFERENCES posts (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX post_enrichment_tenant ON post_enrichment (tenant_id, kind);

CREATE TABLE tenant_storage_usage (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id       uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    content_type    text NOT NULL,
    total_bytes     bigint NOT NULL DEFAULT 0,
    total_gb        double precision NOT NULL GENERATED ALWAYS AS (total_bytes / 1073741824.0) STORED,
    objects_count   bigint NOT NULL DEFAULT 0,
    last_updated    timestamptz NOT NULL DEFAULT now(),
    created_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT uq_tenant_storage_usage UNIQUE (tenant_id, content_type),
    CONSTRAINT ck_tenant_storage_usage_bytes CHECK (total_bytes >= 0),
    CONSTRAINT ck_tenant_storage_usage_gb CHECK (total_gb >= 0),
    CONSTRAINT ck_tenant_storage_usage_count CHECK (objects_count >= 0),
    CONSTRAINT ck_tenant_storage_usage_type CHECK (content_type IN ('media', 'vision', 'crawl'))
);
CREATE INDEX ix_tenant_storage_usage_tenant ON tenant_storage_usage (tenant_id);
CREATE INDEX ix_tenant_storage_usage_type ON tenant_storage_usage (content_type);
CREATE INDEX ix_tenant_storage_usage_updated ON tenant_storage_usage (last_updated);
CREATE INDEX ix_tenant_storage_usage_tenant_type ON tenant_storage_usage (tenant_id, content_type);

CREATE TABLE storage_objects (                -- the object ledger: what is known to lie in S3
    tenant_id       uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    s3_key          text NOT NULL,
    content_type    text NOT NULL CHECK (content_type IN ('media', 'vision', 'crawl')),
    bytes           bigint NOT NULL CHECK (bytes >= 0),
    recorded_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, s3_key)
);

-- Usage is the sum of the ledger by construction: whoever changes the ledger moves it by exactly the difference.
CREATE FUNCTION add_to_tenant_storage_usage() RETURNS trigger LANGUAGE plpgsql AS $$
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
    ELSE  -- the key, and with it the type, of a row never changes
        UPDATE tenant_storage_usage u SET
            total_bytes = u.total_bytes + changed.bytes,
            last_updated = now()
        FROM (SELECT tenant_id, a.content_type, sum(a.bytes - r.bytes) AS bytes
              FROM added a JOIN removed r USING (tenant_id, s3_key) GROUP BY 1, 2) changed
        WHERE u.tenant_id = changed.tenant_id AND u.content_type = changed.content_type;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER storage_objects_inserted AFTER INSERT ON storage_objects
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION add_to_tenant_storage_usage();
CREATE TRIGGER storage_objects_updated AFTER UPDATE ON storage_objects
    REFERENCING OLD TABLE AS removed NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION add_to_tenant_storage_usage();
CREATE TRIGGER storage_objects_deleted AFTER DELETE ON storage_objects
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION add_to_tenant_storage_usage();

CREATE TABLE search_index (                   -- what of each post lies in the search collection
    tenant_id       uuid NOT NULL,
    post_id         uuid NOT NULL,
    collection      text NOT NULL,
    content_hash    text NOT NULL,
    state           text NOT NULL CHECK (state IN ('indexed', 'skipped')),
    reason          text,
    indexed_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, post_id),
    FOREIGN KEY (tenant_id, post_id) REFERENCES posts (tenant_id, id) ON DELETE CASCADE
);

CREATE TABLE dead_letters (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    stage       text NOT NULL,                -- the asset or command that gave up
    item        text NOT NULL,                -- what it gave up on
    error_class text NOT NULL,
    reason      text NOT NULL,
    message     text NOT NULL,
    details     jsonb NOT NULL DEFAULT '{}',
    attempts    integer NOT NULL DEFAULT 1,
    first_at    timestamptz NOT NULL DEFAULT now(),
    last_at     timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    UNIQUE (tenant_id, stage, item)
);

CREATE TABLE counters (                       -- monotonic, for the exporter and the demo
    tenant_id   uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    name        text NOT NULL,
    labels      jsonb NOT NULL DEFAULT '{}',
    value       bigint NOT NULL DEFAULT 0 CHECK (value >= 0),
    PRIMARY KEY (tenant_id, name, labels)
);
"""

TABLES = (
    "counters",
    "dead_letters",
    "search_index",
    "storage_objects",
    "tenant_storage_usage",
    "post_enrichment",
    "vision_results",
    "phash_index",
    "media_objects",
    "post_media",
    "posts",
    "channels",
    "tenants",
)


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    for table in TABLES:
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP FUNCTION add_to_tenant_storage_usage")
