"""APIShield: rate limiting, API keys, abuse protection, usage analytics and billing for an API."""

__version__ = "0.1.0"
