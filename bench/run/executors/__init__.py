"""Where the work of a run is done: in this process, or in others.

A stage makes jobs of what is to be computed, gives them to the executor of the run, and records what
comes back. It does not know where they ran.
"""

from bench.run.executors.job import Executor, Held, Job, Outcome, cut, do
from bench.run.executors.local import Local

__all__ = ["Executor", "Held", "Job", "Local", "Outcome", "cut", "do"]
