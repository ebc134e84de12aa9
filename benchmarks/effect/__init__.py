"""What antialiasing does to networks that learn from scratch: accuracy and consistency on handwritten digits."""
