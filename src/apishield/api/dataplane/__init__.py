"""The data plane: raw ASGI, no framework work per request.

Owns: ``/v1/check``, ``/v1/check/batch``, ``/v1/report``: who asks, bytes in, bytes out.
Does not own: the verdict (``services.engine``), every other path (the control plane behind it).
"""
