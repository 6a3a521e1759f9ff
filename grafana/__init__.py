"""Dashboards, alert rules and how Grafana and Prometheus find them."""
