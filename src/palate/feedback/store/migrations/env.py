"""Alembic runs the migrations with the engine that `Store.upgrade` hands it: all of them or none."""

from alembic import context

from palate.feedback.store.tables import Table

LOCK = 0x70616C01  # any number; whoever comes second waits and finds the work done

with context.config.attributes["engine"].begin() as connection:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
    context.configure(connection=connection, target_metadata=Table.metadata, render_as_batch=True)
    context.run_migrations()
