"""What the peers serve: the same work as benchmarks/apps, written as each peer's own users would write it."""
