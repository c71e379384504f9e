"""Furnished rooms, composed of the shipped furniture: catalogue, building, furnishing, surfaces, paint, scan, pictures."""
