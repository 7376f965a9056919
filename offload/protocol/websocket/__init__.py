"""WebSockets: the opening handshake, frames and compression."""
