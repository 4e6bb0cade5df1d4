"""Tensors in, tensors out: the encoder and its parts. Nothing here touches a file."""
