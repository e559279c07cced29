"""Core ML models of a bundle: their layers, manifest, structural check, and an interpreter in numpy."""
