"""`python -m edgedet`."""

from edgedet.cli.main import main

main()
