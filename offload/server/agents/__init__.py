"""Agents that Python loads at its start; on the path of a supervisor for its one module, which Python finds by name."""
