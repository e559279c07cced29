"""The text-to-image demo: drawn scenes with captions, and a small latent diffusion model trained on them."""
