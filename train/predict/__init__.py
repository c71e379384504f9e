"""What a trained network says: of files, and of whole splits."""
