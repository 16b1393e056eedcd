"""Models, which compute logits from images. They do not depend on training or data."""
