"""Reading the ledger: sums of any period, always within one tenant.

Owns: the queries over rollups, addresses, names. Does not own: what a period or a filter means (``services.analytics``),
how the tables are filled (``stores.sql.ledger``), reading decisions back (``stores.sql.ledger.archive``).
"""
