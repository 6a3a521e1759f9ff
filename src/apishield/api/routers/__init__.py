"""The routes of the control plane, one file a feature: parse, one call of a service, show."""
