"""Verdicts for gateways that can't import an SDK: they pass the original request's facts in headers.

Owns: which header says what, and which answers each gateway understands. Does not own: the verdict, who may ask.
"""
