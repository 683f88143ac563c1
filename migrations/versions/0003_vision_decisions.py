"""Decisions of the vision policy: why a stored picture is not, or not yet, given to a provider; figures of pictures.

Revision ID: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE vision_decisions (               -- a picture without a row is done or to do
    tenant_id   uuid NOT NULL,
    sha256      text NOT NULL,
    provider    text NOT NULL,
    model       text NOT NULL,
    verdict     text NOT NULL CHECK (verdict IN ('skip', 'ocr_only', 'defer')),
    reason      text NOT NULL,
    message     text NOT NULL,
    rules       text NOT NULL,                -- fingerprint of the policy's rules: under others it is decided anew
    due_at      timestamptz,                  -- it is to do again from then on; null: not before the rules change
    attempts    integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),  -- calls that were charged and brought no answer
    decided_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, sha256, provider, model),
    FOREIGN KEY (tenant_id, sha256) REFERENCES media_objects (tenant_id, sha256) ON DELETE CASCADE,
    CHECK (verdict <> 'defer' OR due_at IS NOT NULL)
);
CREATE INDEX vision_decisions_due ON vision_decisions (due_at) WHERE due_at IS NOT NULL;

ALTER TABLE media_objects ADD COLUMN measured jsonb;  -- what the pixels tell; null: not measured when it was stored
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    # A text that was read for want of a budget stands for no answer of the provider.
    op.execute("DELETE FROM vision_results WHERE method = 'fallback'")
    op.execute("DROP TABLE vision_decisions")
    op.execute("ALTER TABLE media_objects DROP COLUMN measured")
