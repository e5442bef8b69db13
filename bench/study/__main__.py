"""`python -m bench.study` works the list off."""

from bench.study.queue import main

main()
