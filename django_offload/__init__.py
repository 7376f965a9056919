"""Django's shell over offload: settings, sessions, users, Origin checks and commands. Knows offload's public names."""
