"""Indexes of the hashes' chunks without the pictures' names: two fifths less to keep, up to millions quicker.

Revision ID: 0008
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

CHUNKS = {0: 0, 1: 16, 2: 32, 3: 48}
"""Number → the lowest of its 16 bits."""


def upgrade() -> None:
    _index_chunks("INCLUDE (phash)")
    op.execute("CREATE INDEX phash_index_hash ON phash_index (tenant_id, phash) INCLUDE (sha256) WHERE flags = '{}'")


def downgrade() -> None:
    op.execute("DROP INDEX phash_index_hash")
    _index_chunks("INCLUDE (phash, sha256)")


def _index_chunks(included: str) -> None:
    for chunk, shift in CHUNKS.items():
        op.execute(f"DROP INDEX phash_index_chunk{chunk}")
        op.execute(
            f"CREATE INDEX phash_index_chunk{chunk} ON phash_index (tenant_id, ((phash >> {shift}) & 65535))"
            f" {included} WHERE flags = '{{}}'"
        )
