"""Features of images: what a backbone makes of them."""
