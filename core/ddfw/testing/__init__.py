"""Checks for authors of plugins: does a component keep its contract?"""
