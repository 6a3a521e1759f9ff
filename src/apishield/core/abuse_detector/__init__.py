"""What tells abuse from use. Pure: the worker and the verdict bring the traffic and the time."""
