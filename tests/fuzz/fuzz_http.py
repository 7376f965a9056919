"""Coverage-guided fuzzing of the HTTP protocol: bytes in, and nothing but requests or an `HttpError` out.

Run it by ``make fuzz``, or ``python -m tests.fuzz.fuzz_http -runs=1000000``. Each case is read whole and in pieces;
both must give the same, h11 must agree with what is accepted, and nothing may be kept beyond the limits. New inputs go
to ``build/fuzz/http``; ``python -m tests.fuzz.fuzz_http -merge=1 tests/fuzz/corpus/http build/fuzz/http`` keeps those
that reach new code.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["offload"]):
    from tests.fuzz.http_case import check

from tests.protocol.samples import samples

_CORPUS = Path(__file__).parent / "corpus" / "http"
_FRESH = Path("build/fuzz/http")


def main() -> None:
    """Fuzz from the kept corpus and the wire samples."""
    _FRESH.mkdir(parents=True, exist_ok=True)
    seeds = Path("build/fuzz/http-samples")
    seeds.mkdir(parents=True, exist_ok=True)
    for kind in ("valid", "invalid"):
        for sample in samples(kind):
            (seeds / f"{kind}-{sample.name}").write_bytes(b"\x10" + sample.raw)
    # What it calls itself by, in a shell, to merge.
    program = f"{sys.executable} -m tests.fuzz.fuzz_http"
    arguments = sys.argv[1:]
    if not any(argument.startswith("-merge") for argument in arguments):
        arguments += [str(_FRESH), str(_CORPUS), str(seeds)]
    atheris.Setup([program, "-max_len=4096", "-timeout=10", "-artifact_prefix=build/fuzz/", *arguments], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
