"""The pure heart: values, algorithms and decisions. No I/O, no clock, no randomness; now and entropy are arguments."""
