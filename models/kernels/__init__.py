"""Compiled code of training: functions on arrays and scalars."""
