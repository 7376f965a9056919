"""WebSockets meet consumers and applications: frames become messages, and messages frames."""
