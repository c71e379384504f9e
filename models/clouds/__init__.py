"""Networks for point clouds: PointNet, PointNet++, DGCNN, each for classes and for points."""
