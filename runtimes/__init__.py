"""Runtimes: one module per engine, the same few functions in each. Imports as `sige_deploy.runtimes`."""
