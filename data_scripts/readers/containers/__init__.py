"""Containers of videos: what their checksums tell that FFmpeg passes over."""
