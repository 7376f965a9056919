"""A Django project that serves a page, a stream, files and an upload."""
