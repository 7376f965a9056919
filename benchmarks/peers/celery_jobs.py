"""P9: Celery on Redis, its defaults. Run as a module, it fills the queue."""

import os

from celery import Celery

from benchmarks.peers.jobs import TEXT, TOTAL, count

app = Celery("benchmarks.peers.celery_jobs", broker=os.environ["BENCHMARK_REDIS"])


@app.task(name="jobs")
def run(text: str) -> None:
    count(text)


if __name__ == "__main__":
    for _ in range(TOTAL):
        run.delay(TEXT)
