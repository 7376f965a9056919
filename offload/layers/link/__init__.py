"""Connections to a layer's server."""
