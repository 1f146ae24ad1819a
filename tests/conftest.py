from __future__ import annotations

from hypothesis import settings

# The same examples in every run, and no time limit for one: machines that run tests are busy.
settings.register_profile("tests", derandomize=True, deadline=None, database=None)
settings.load_profile("tests")
