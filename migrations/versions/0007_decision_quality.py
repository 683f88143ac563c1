"""The quality of the hashes by which the reuse of a result was decided.

Revision ID: 0007
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE reuse_decisions ADD COLUMN quality real CHECK (quality BETWEEN 0 AND 1);  -- of both hashes the lower one
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute("ALTER TABLE reuse_decisions DROP COLUMN quality")
