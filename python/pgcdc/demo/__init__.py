"""`pgcdc demo`: a shop that is written to, a pipeline, and three targets that are compared with the shop at the end.

run.py        the whole run, from the server to the closing line
place.py      where it runs: the embedded server, or a schema of its own on the user's
shop.py       the tables and what is written to them          writer.py   the application that writes, a process
search.py     target: SQLite FTS5                             cache.py    target: memory or Redis
analytics.py  target: DuckDB                                  check.py    compares the targets with the source
view.py       what is shown meanwhile
"""
