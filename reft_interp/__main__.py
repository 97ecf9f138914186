"""`python -m reft_interp` is the `reft-interp` command."""

from reft_interp.cli import main

main()
