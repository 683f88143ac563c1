"""Alembic's entry: run the revisions on the connection that `vision_assets.clients.postgres.migrate` hands over.

There is no ini file and no metadata: revisions are written by hand, as SQL.
"""

from alembic import context

from vision_assets.clients.postgres.migrate import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=None,
    version_table=VERSION_TABLE,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
