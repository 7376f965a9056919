"""The hub: the process behind the IPC layer."""
