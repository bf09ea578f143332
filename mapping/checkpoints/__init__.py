"""Checkpoints and networks as people have them: files of weights, factories, Hugging Face folders, .pt2 and ONNX."""
