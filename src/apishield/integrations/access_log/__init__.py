"""What gateways answered, told to the service from their access logs.

Owns: what a line says, where in a log we are (over rotations and restarts), sending. Does not own: what a gateway writes down
(the how-to guides of Nginx and Envoy configure that), what becomes of a result (the ledger, which takes each once).
"""
