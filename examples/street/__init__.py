"""The demo network: procedurally drawn street scenes and a small GauGAN trained on them."""
