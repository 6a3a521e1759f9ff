"""Use cases, one file each: what can be asked of APIShield, whoever asks and by whatever way.

Owns: rules of tenancy, ceilings, what is audited and announced, the verdict.
Does not own: HTTP (``api``), where state lies (``stores``), the pure rules (``core``).
"""
