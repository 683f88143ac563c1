"""Hashes are found by three chunks instead of four: fewer indexes, and a seventh of the hashes read.

Revision ID: 0009
"""

from collections.abc import Iterable

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

THREE = (0, 21), (21, 21), (42, 22)
FOUR = (0, 16), (16, 16), (32, 16), (48, 16)
"""The lowest bit of each chunk, and how many they are."""


def upgrade() -> None:
    _replace(FOUR, THREE)


def downgrade() -> None:
    _replace(THREE, FOUR)


def _replace(old: Iterable[tuple[int, int]], new: Iterable[tuple[int, int]]) -> None:
    for chunk, _ in enumerate(old):
        op.execute(f"DROP INDEX phash_index_chunk{chunk}")
    for chunk, (shift, bits) in enumerate(new):
        op.execute(
            f"CREATE INDEX phash_index_chunk{chunk} ON phash_index"
            f" (tenant_id, ((phash >> {shift}) & {(1 << bits) - 1})) INCLUDE (phash) WHERE flags = '{{}}'"
        )
