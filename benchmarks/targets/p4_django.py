"""P4: "hello world" through Django's default middleware."""

from benchmarks.apps.hello import BODY
from benchmarks.harness import contenders
from benchmarks.harness.measure import Bench, Target
from benchmarks.harness.model import Contender, Requirement, Sample

SITE = "benchmarks.apps.django_site"
DJANGO = ("django",)


def measure(bench: Bench, contender: Contender) -> Sample:
    return bench.timed(contender, "http", "--connections", "64", "--body", BODY.decode())


TARGET = Target(
    name="p4",
    title='"Hello world" through Django\'s default middleware',
    work="64 keep-alive connections, one request outstanding on each; the middleware of startproject, DEBUG off",
    unit="requests/s",
    ours=contenders.offload(f"{SITE}.wsgi", needs=DJANGO),
    peers=(
        contenders.gunicorn(
            "gunicorn-gevent", "gunicorn -k gevent", f"{SITE}.wsgi", "/", "gevent", needs=("gevent", *DJANGO)
        ),
        contenders.gunicorn(
            "gunicorn-gthread",
            "gunicorn -k gthread, 8 threads",
            f"{SITE}.wsgi",
            "/",
            "gthread",
            "--threads",
            "8",
            needs=DJANGO,
        ),
        contenders.django_uvicorn(
            f"{SITE}.asgi", "/", name="django-uvicorn", label="Django's ASGI on uvicorn, synchronous view"
        ),
        contenders.django_uvicorn(
            f"{SITE}.asgi", "/async", name="django-uvicorn-async", label="Django's ASGI on uvicorn, async view"
        ),
    ),
    measure=measure,
    requirements=(
        Requirement("gunicorn-gevent", at_least=1.9),
        Requirement("gunicorn-gthread", at_least=1.9),
        Requirement("django-uvicorn", at_least=8),
        Requirement("django-uvicorn-async", at_least=8),
    ),
)
