"""Cases that tests and benchmarks share: shapes, random graphs and networks, networks of other libraries."""
