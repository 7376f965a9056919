"""Dispatch: which process runs a consumer, and how."""
