"""Where sockets meet WSGI and messages: requests become application calls, WebSocket frames become messages."""
