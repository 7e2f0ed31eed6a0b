"""Fused asymmetric cross-attention ops and their choice. Empty until the kernels arrive."""
