"""Chips as folders: written, checked, read again."""
