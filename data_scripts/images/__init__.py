"""Images: Fashion-MNIST as distributed, a folder of pictures, and the readers of both."""
