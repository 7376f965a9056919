"""Stands in for an agent's ``sitecustomize`` in the supervisor, and leaves no trace in paths and variables."""

import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [_place for _place in sys.path if _place != _here]
_places = [_place for _place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if _place != _here]
if any(_places):
    os.environ["PYTHONPATH"] = os.pathsep.join(_places)
else:
    os.environ.pop("PYTHONPATH", None)
