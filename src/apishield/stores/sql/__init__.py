"""The database: SQLite for one machine, PostgreSQL for several.

Owns: tables, transactions, repositories (all SQL), tenancy of queries, the change feed, what a failure means.
Does not own: what may be asked and by whom (``services``), how the schema came about (``migrations``).
"""
