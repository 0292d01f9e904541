"""``python -m medd``."""

from medd.cli.main import main

main()
