"""All that needs PyTorch, timm or torchvision: networks as modules, their training, and their conversion."""
