"""Layer addresses: URLs and settings to layers."""
