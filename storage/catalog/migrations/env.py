"""Alembic's entry point. `storage.catalog.schema.migrate` runs it and hands over a connection
that is inside a transaction and holds the migration lock."""

from alembic import context

from storage.catalog.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite cannot alter most things in place
    transactional_ddl=True,  # SQLite's DDL is transactional, as PostgreSQL's
)
context.run_migrations()
