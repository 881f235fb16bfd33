"""The output of all commands, and the log."""
