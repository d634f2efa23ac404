"""Alembic runs the migrations with the engine that `Store.upgrade` hands it."""

from alembic import context

from palate.feedback.tables import Table

with context.config.attributes["engine"].connect() as connection:
    context.configure(connection=connection, target_metadata=Table.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
