"""One file per verb of ``replaceme-bench``. Heavy imports wait until the verb runs."""
