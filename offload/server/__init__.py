"""Processes: the supervisor, the server processes it forks, and what they serve."""
