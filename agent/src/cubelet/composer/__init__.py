"""Turns cubes and their settings into programs, and puts those in force."""
