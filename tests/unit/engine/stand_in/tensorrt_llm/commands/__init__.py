"""The command modules."""
