"""What a run learns from: shapes, parts, blocks, scenes, videos."""
