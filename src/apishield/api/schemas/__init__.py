"""What goes in and comes out over HTTP: one file a feature. Pydantic models, turned at once into the values of ``core``."""
