"""The ledger's tables: what writes events into them, what reads decisions back, what keeps them small.

Owns: statements over the tables in ``tables``. Does not own: what an event means (``analytics``), when it is written
(``services.ledger``), what is asked of the figures (``stores.sql.analytics``).
"""
