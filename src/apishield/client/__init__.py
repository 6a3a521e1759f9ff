"""The Python SDK: ``APIShield`` and ``AsyncAPIShield``, typed answers and errors.

Owns: asking the service. Does not own: protecting an API with it (``integrations``). Free of every server package.
"""

from __future__ import annotations
