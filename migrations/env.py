"""Alembic's entry: run the revisions on the connection that `vision_assets.clients.postgres.migrate` hands over.

There is no ini file and no metadata: revisions are written by hand, as SQL.
"""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=None,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
