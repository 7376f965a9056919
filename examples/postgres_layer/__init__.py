"""A channel layer on PostgreSQL: LISTEN and NOTIFY, SKIP LOCKED. docs/howto/write-a-layer.md explains it."""

from examples.postgres_layer.layer import PostgresLayer

__all__ = ["PostgresLayer"]
