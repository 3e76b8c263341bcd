"""Benchmarks of fastnn against other libraries; README.md states the protocol."""
