"""Quantization: which tensor gets which quantizer, quantization-aware and post-training, calibration."""
