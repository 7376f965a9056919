"""A layer's local half: what this process wants, and what it keeps."""
