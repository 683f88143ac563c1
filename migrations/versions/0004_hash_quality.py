"""The quality of perceptual hashes.

Revision ID: 0004
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE phash_index ADD COLUMN quality real CHECK (quality BETWEEN 0 AND 1);  -- null: of an algorithm without one
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute("ALTER TABLE phash_index DROP COLUMN quality")
