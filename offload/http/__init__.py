"""HTTP meets WSGI: requests become calls of the application, and answers bytes."""
