"""API keys, as far as they can be thought without a database.

Owns: the form of secrets, how they are hashed, the states of a key, what scopes cover.
Does not own: where keys lie (``stores.sql``), who may change them (``services.keys``), the verdict
(``services.engine``).
"""
