"""Diffusion pipelines: record a picture once, then edit it by strokes, masks and words."""
