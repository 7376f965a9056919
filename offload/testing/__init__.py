"""Tests and test tools that offload ships for those who build on it."""
