"""Channel layers: what processes share. Usable in any Python process, with or without a server in it."""
