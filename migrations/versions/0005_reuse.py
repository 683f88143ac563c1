"""Decisions about the reuse of results, and pictures that are never reused.

Revision ID: 0005
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE reuse_decisions (                -- of each picture the newest, about the nearest candidates
    tenant_id           uuid NOT NULL,
    sha256              text NOT NULL,        -- that was to have a result
    candidate_sha256    text NOT NULL,        -- whose result was at hand
    provider            text NOT NULL,
    model               text NOT NULL,
    distance_bits       smallint NOT NULL,
    distance_256_bits   smallint NOT NULL,
    aspect_difference   real NOT NULL,
    cell_difference     real NOT NULL,        -- largest of one of 64×64 luma cells, of 255
    strictness          text NOT NULL CHECK (strictness IN ('strict', 'normal')),
    verdict             text NOT NULL CHECK (verdict IN ('reused', 'refused')),
    reason              text NOT NULL,
    decided_at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, sha256, provider, model, candidate_sha256),
    FOREIGN KEY (tenant_id, sha256) REFERENCES media_objects (tenant_id, sha256) ON DELETE CASCADE
);

CREATE TABLE reuse_denials (                  -- a picture with a row takes nobody's result and gives none
    tenant_id   uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    sha256      text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    origin      text NOT NULL CHECK (origin IN ('operator', 'quarantine')),
    reason      text NOT NULL,
    algorithm   text,                         -- of the hash below; both null: it had none
    phash       bigint,                       -- others with exactly this hash are denied with it
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, sha256),
    CHECK (num_nulls(algorithm, phash) IN (0, 2))
);

CREATE INDEX vision_results_donor ON vision_results (tenant_id, donor_sha256) WHERE donor_sha256 IS NOT NULL;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    # What a denial made to do again has no answer, and so no row.
    op.execute("DELETE FROM vision_results WHERE reason = 'reuse_denied' AND method = 'skipped'")
    op.execute("DROP INDEX vision_results_donor")
    op.execute("DROP TABLE reuse_denials")
    op.execute("DROP TABLE reuse_decisions")
