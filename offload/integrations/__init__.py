"""offload inside other servers' process models."""
