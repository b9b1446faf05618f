"""Puts the clock of a service wrong: Python runs this at its start where this folder is on PYTHONPATH.

SKEWED_CLOCKS is JSON: service -> seconds that its clock is ahead (negative: behind).
"""

import json
import os
import sys
import time

_skews = json.loads(os.environ.get("SKEWED_CLOCKS", "{}"))
_module = next((argument for argument in sys.orig_argv if argument.startswith("services.")), "")
_skew = _skews.get(_module.removeprefix("services.").removesuffix(".main"), 0.0)
if _skew:
    _time, _time_ns = time.time, time.time_ns
    time.time = lambda: _time() + _skew
    time.time_ns = lambda: _time_ns() + int(_skew * 1e9)
