"""What the ledger says of a tenant's traffic: totals, series over time, tops, single decisions, a live view, exports.

Owns: what a question means (period, filters, grouping), how its answer is put together from the ledger's sums.
Does not own: filling the ledger (``services.ledger``), SQL (``stores.sql.analytics``), pure maths of periods and histograms
(``apishield.analytics``).
"""
