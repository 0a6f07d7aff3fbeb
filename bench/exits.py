"""Exit codes of ``replaceme-bench``; 0 is all well."""

EXIT_DIFFERENT = 1  # a regression, or two ways of scoring that disagree
EXIT_NONE = 1  # no variant satisfies the constraints
EXIT_WRONG = 2  # the command or a file is wrong, or the output cannot be written
EXIT_FAILED = 3  # a run finished, but some cells failed
EXIT_INTERRUPTED = 130
