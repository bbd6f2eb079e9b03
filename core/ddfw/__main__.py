"""`python -m ddfw`: the same as `ddfw`."""

from ddfw.cli.main import main

main()
