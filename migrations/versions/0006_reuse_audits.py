"""Audits of reuse: what the provider said of pictures that could have taken another's result.

Revision ID: 0006
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE reuse_audits (
    tenant_id     uuid NOT NULL,
    sha256        text NOT NULL,
    donor_sha256  text NOT NULL,      -- whose result it could have taken
    provider      text NOT NULL,
    model         text NOT NULL,
    differences   text[] NOT NULL,    -- in what the two answers differ; empty = they say the same
    audited_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, sha256, provider, model),
    FOREIGN KEY (tenant_id, sha256) REFERENCES media_objects (tenant_id, sha256) ON DELETE CASCADE
);
CREATE INDEX reuse_audits_by_time ON reuse_audits (tenant_id, audited_at);
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute("DROP TABLE reuse_audits")
