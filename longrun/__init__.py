"""Runs that are too long for the tests, or that need software which they must not depend on."""
