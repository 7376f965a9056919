"""The machinery of the benchmark suite: environments, processes, rounds and reports. Standard library only.

What is measured stands in benchmarks/targets; how to serve a contender stands in contenders.py.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "benchmarks"
BUILD = SUITE / "build"
VENV = ROOT / ".venv-bench"
