"""Trained models written for other programs: Hugging Face transformers, torchaudio, ONNX and its readers."""
