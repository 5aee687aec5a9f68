"""Where a user's own network comes from: one kind of MODEL a file."""
