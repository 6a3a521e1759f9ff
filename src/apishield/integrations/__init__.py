"""Protecting an API with APIShield: ASGI, FastAPI, WSGI, Flask, Django.

Owns: who is calling, the one decision per request, what a refusal looks like, what is reported. Does not own: the verdict (the
service's, or ``stores`` without one). Free of every server package and of the frameworks it serves.
"""

from __future__ import annotations
