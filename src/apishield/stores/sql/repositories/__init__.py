"""All SQL lives here: one repository for each kind of thing."""
