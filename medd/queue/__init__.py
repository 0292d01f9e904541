"""Work that survives whoever does it: a queue in the database."""
