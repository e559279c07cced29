"""Exporters: a network in, a bundle or an engine out. Imports as `sige_deploy.exporters`."""
