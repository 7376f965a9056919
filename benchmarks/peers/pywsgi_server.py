"""gevent's own WSGI server: `python -m benchmarks.peers.pywsgi_server PORT`."""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402 (patched first)

from gevent.pywsgi import WSGIServer  # noqa: E402

from benchmarks.apps.hello import application  # noqa: E402

if __name__ == "__main__":
    WSGIServer(("127.0.0.1", int(sys.argv[1])), application, log=None).serve_forever()
