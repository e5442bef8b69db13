"""The study: a list of trainings, worked off in the background, and what came of them.

    make study DATA=DIR     python -m bench.study --data DIR --runs DIR

rows.py reads the list (bench/study.toml), queue.py works it off, row.py is one training from start to record,
networks.py has the networks that the package has not, report.py makes docs/study.md of the records.
"""
