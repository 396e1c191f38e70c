"""What is measured: a module for each group, whose ``measure`` does one round of it."""
