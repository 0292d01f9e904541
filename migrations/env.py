"""Alembic's entry: runs the migrations on the engine that `medd.store.database` hands in."""

from alembic import context

engine = context.config.attributes["engine"]

with engine.connect().execution_options(medd_write=True) as connection:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
