"""The ledger under fire: whatever is killed at whatever moment, it holds what was answered, once."""
