"""`python -m django_offload.port PATH`: what code for Channels 1 has to change in imports and settings, as a diff."""
