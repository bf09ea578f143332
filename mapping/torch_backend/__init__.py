"""The backend `torch`: reads of tiles in torch operations, on any device, with gradients. See docs/torch-backend.md."""
