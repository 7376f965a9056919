"""Sans-I/O state machines: bytes in, events out. No sockets, no clock, no gevent."""
