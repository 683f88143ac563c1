"""Chunks of hashes of other lengths: a quarter of the hashes less is read under them.

Revision ID: 0009
"""

from collections.abc import Iterable

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

UNEVEN = (0, 16), (16, 17), (33, 17), (50, 14)
EVEN = (0, 16), (16, 16), (32, 16), (48, 16)
"""The lowest bit of each chunk, and how many they are."""


def upgrade() -> None:
    _replace(UNEVEN)


def downgrade() -> None:
    _replace(EVEN)


def _replace(chunks: Iterable[tuple[int, int]]) -> None:
    for chunk, (shift, bits) in enumerate(chunks):
        op.execute(f"DROP INDEX phash_index_chunk{chunk}")
        op.execute(
            f"CREATE INDEX phash_index_chunk{chunk} ON phash_index"
            f" (tenant_id, ((phash >> {shift}) & {(1 << bits) - 1})) INCLUDE (phash) WHERE flags = '{{}}'"
        )
