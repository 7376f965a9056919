"""What all layers agree on: names, encoding, sealing, settings."""
