"""The frame around the control plane: each file one small ASGI class."""
