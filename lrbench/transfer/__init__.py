"""Protocols that measure how well a snapshot transfers."""
