"""Pure equations: tensors in, tensors out, no parameters."""
