"""Families of reference tables, one module a theme."""
