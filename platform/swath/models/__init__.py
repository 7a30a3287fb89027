"""Networks: architectures and encoders, the forward pass, checkpoints."""
