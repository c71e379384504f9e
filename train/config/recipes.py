"""Recipes: a run is a `Config`, and a recipe is a function that returns one. The config is also the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dropfold.models.formats import FormatSpec
from dropfold.train.config.configs import (
    AugmentConfig,
    BlockConfig,
    CloudConfig,
    Config,
    ImageConfig,
    NoiseConfig,
    PartConfig,
    SceneConfig,
    VideoConfig,
)

CIFAR10 = Path("data/local/cifar10.h5")
LDRAW = Path("data/local/ldraw.h5")
LABELED_MESHES = Path("data/local/labeled_meshes.h5")
SHAPENET_PART = Path("data/local/shapenet_part.h5")
SHAPENET_PART_2048 = Path("data/local/shapenet_part_2048.h5")


def furniture() -> CloudConfig:
    """DGCNN with a little DropFeat on the furniture that ships with the project: minutes on a laptop."""
    return CloudConfig(
        data=Path("data/furniture.h5"),
        points=512,
        resample=True,
        emb_dims=512,
        epochs=45,
        batch_size=16,
        optimizer="adam",
        lr=1e-3,
        lr_end=1e-5,
        noise=NoiseConfig("feat", p=0.1),
        augment=AugmentConfig(scale=(0.8, 1.25), shift=0.1),
    )


def furniture_pointnet() -> CloudConfig:
    """PointNet without transforms, with DropCluster, on furniture."""
    cluster = NoiseConfig("cluster", p=0.5, k=32)
    return replace(furniture(), network="pointnet", transforms=False, epochs=80, dropout=0.4, noise=cluster)


def furniture_pointnet2() -> CloudConfig:
    """PointNet++ with a little DropFeat on furniture."""
    return replace(furniture(), network="pointnet2")


def labeled_meshes() -> CloudConfig:
    """DGCNN with a little DropFeat on the labeled meshes (dropfold.data_scripts.shapes.labeled_meshes)."""
    return replace(furniture(), data=LABELED_MESHES)


def labeled_meshes_pointnet() -> CloudConfig:
    """PointNet without transforms, with DropCluster, on the labeled meshes."""
    return replace(furniture_pointnet(), data=LABELED_MESHES)


def ldraw() -> CloudConfig:
    """DGCNN with a little DropFeat on 3,785 parts of LDraw (dropfold.data_scripts.shapes.ldraw)."""
    return replace(furniture(), data=LDRAW, epochs=15, batch_size=32)


def ldraw_pointnet() -> CloudConfig:
    """PointNet without transforms and without noise on the parts of LDraw."""
    return replace(furniture_pointnet(), data=LDRAW, epochs=30, batch_size=32, noise=NoiseConfig())


def modelnet40_dgcnn() -> CloudConfig:
    """antao97's protocol: 1,024 points, SGD 0.1, cosine to 1e-3 over 250 epochs, label smoothing, no noise."""
    return CloudConfig(data=Path("data/local/modelnet40.h5"))


def modelnet40_pointnet() -> CloudConfig:
    """yanx27's protocol: 1,024 points, Adam 1e-3, x 0.7 before epochs 20, 40 .. of 200, point dropout, no noise."""
    return CloudConfig(
        data=Path("data/local/modelnet40.h5"),
        network="pointnet",
        epochs=200,
        batch_size=24,
        optimizer="adam",
        lr=1e-3,
        schedule="step",
        lr_ahead=1,
        label_smoothing=0.0,
        dropout=0.4,
        augment=AugmentConfig(scale=(0.8, 1.25), scale_per_axis=False, shift=0.1, point_dropout=0.875),
    )


def components() -> PartConfig:
    """DGCNN with a little DropFeat on the electronic components that ship with the project: minutes on a laptop."""
    return PartConfig(
        data=Path("data/components.h5"),
        points=512,
        k=10,
        emb_dims=256,
        epochs=30,
        validate_every=3,
        batch_size=8,
        optimizer="adam",
        lr=1e-3,
        lr_end=1e-5,
        label_smoothing=0.0,
        own_parts=True,
        noise=NoiseConfig("feat", p=0.1),
        augment=AugmentConfig(scale=(0.8, 1.25), shift=0.1, up="z"),
    )


def components_pointnet() -> PartConfig:
    """PointNet with DropCluster on components, and with the shape around each point, of which it learns nothing itself."""
    cluster = NoiseConfig("cluster", p=0.3, k=32)
    return replace(components(), network="pointnet", dropout=0.0, noise=cluster, local_shape=True)


def components_pointnet2() -> PartConfig:
    """PointNet++ with DropCluster on components."""
    return replace(components(), network="pointnet2", epochs=20, noise=NoiseConfig("cluster", p=0.3, k=32))


def shapenet_part_pointnet() -> PartConfig:
    """yanx27's protocol: 2,048 points, Adam 1e-3, x 0.5 every 20 of 251 epochs to 1e-5, BatchNorm's momentum falling."""
    return PartConfig(
        data=SHAPENET_PART,
        network="pointnet",
        normals=True,
        epochs=251,
        batch_size=16,
        optimizer="adam",
        lr=1e-3,
        schedule="step",
        lr_factor=0.5,
        lr_floor=1e-5,
        initial_weights="xavier",
        norm_decay=0.5,
        label_smoothing=0.0,
        dropout=0.0,
        augment=AugmentConfig(scale=(0.8, 1.25), scale_per_axis=False, shift=0.1),
        train_on_validation=True,
    )


def shapenet_part_pointnet2() -> PartConfig:
    """yanx27's protocol with PointNet++ (MSG)."""
    return replace(shapenet_part_pointnet(), network="pointnet2", grouping="msg", dropout=0.5)


def shapenet_part_dgcnn() -> PartConfig:
    """antao97's protocol: 2,048 points, k 40, SGD 0.1, cosine to 1e-3 over 200 epochs, no augmentation, no noise; scores are
    of the choice among all parts."""
    still = AugmentConfig(scale=(1.0, 1.0), shift=0.0)
    return PartConfig(
        data=SHAPENET_PART_2048, epochs=200, augment=still, all_parts=True, train_on_validation=True
    )


def s3dis_pointnet() -> SceneConfig:
    """yanx27's protocol: blocks of 4,096 points, Adam 1e-3, x 0.7 every 10 of 128 epochs, class weights; tests on area 5."""
    return SceneConfig(
        data=Path("data/local/s3dis.h5"),
        network="pointnet",
        epochs=128,
        batch_size=16,
        optimizer="adam",
        lr=1e-3,
        schedule="step",
        lr_epochs=10,
        lr_floor=1e-5,
        initial_weights="xavier",
        norm_decay=0.5,
        pool_points=1 << 28,  # all of S3DIS
        label_smoothing=0.0,
        dropout=0.0,
        class_weights=True,
        augment=AugmentConfig(scale=(1.0, 1.0), shift=0.0, rotate=True, up="z"),
        train_on_validation=True,
        votes=3,
    )


def s3dis_pointnet2() -> SceneConfig:
    """yanx27's protocol with PointNet++."""
    return replace(s3dis_pointnet(), network="pointnet2", dropout=0.5)


def s3dis_dgcnn() -> BlockConfig:
    """antao97's protocol: the blocks of indoor3d_sem_seg_hdf5_data, k 20, SGD 0.1, cosine to 1e-3 over 100 epochs."""
    still = AugmentConfig(scale=(1.0, 1.0), shift=0.0, up="z")
    return BlockConfig(
        data=Path("data/local/s3dis_blocks.h5"), epochs=100, augment=still, train_on_validation=True
    )


def rooms() -> SceneConfig:
    """DGCNN with DropCluster on the furnished rooms that `make rooms` makes: minutes on a laptop."""
    return SceneConfig(
        data=Path("data/local/rooms.h5"),
        points=2048,
        block=2.0,
        local_shape=True,
        blocks=480,
        epochs=15,
        validate_every=3,
        batch_size=4,
        k=20,
        emb_dims=512,
        optimizer="adam",
        lr=2e-3,
        lr_end=1e-5,
        dropout=0.3,
        label_smoothing=0.0,
        noise=NoiseConfig("cluster", p=0.3, k=32),
        augment=AugmentConfig(scale=(0.9, 1.1), shift=0.0, up="z", jitter=0.005),
        stride=1.0,
    )


def rooms_pointnet() -> SceneConfig:
    """PointNet with DropCluster on the furnished rooms."""
    return replace(rooms(), network="pointnet", dropout=0.0)


def rooms_pointnet2() -> SceneConfig:
    """PointNet++ with DropCluster, among the 64 centres inside its last max, on the furnished rooms."""
    return replace(rooms(), network="pointnet2", radius=2.0, noise=NoiseConfig("cluster", p=0.3, k=8))


def fdht_lstm_video() -> VideoConfig:
    """A fully decomposed LSTM (FDHT) on moving furniture, from raw pixels: minutes on a laptop."""
    return VideoConfig(
        data=Path("data/local/moving_furniture.h5"),
        epochs=30,
        lr=3e-3,
        clip=1.0,
        mega=fdht(11, 11, 20, 24),
        std=0.5,
    )


def action_video() -> VideoConfig:
    """A fully decomposed LSTM on 20 drawn human actions, trained on all people that its file trains or validates on."""
    return VideoConfig(
        data=Path("data/local/action_video.h5"),
        lr=1e-2,
        clip=1.0,
        mega=fdht(8, 8, 10, 8),
        mean=0.0,
        std=1.0,
        shift=3,
        train_on_validation=True,
    )


def ucf11_tt_lstm() -> VideoConfig:
    """TT_RNN's TT-LSTM on UCF11, at 6 frames a clip."""
    return tt_lstm("ucf11", (8, 20, 20, 18), epochs=1001, lr=1e-4)


def ucf11_fdht_lstm() -> VideoConfig:
    """A fully decomposed LSTM on UCF11, at 6 frames a clip."""
    return replace(ucf11_tt_lstm(), ih=FormatSpec(), mega=fdht(11, 11, 20, 24))


def youtube_celebrities_tt_lstm() -> VideoConfig:
    """TT_RNN's TT-LSTM on YouTube Celebrities, at 6 frames a clip."""
    return tt_lstm("youtube_celebrities", (4, 20, 20, 36), epochs=101, lr=1e-3)


def hollywood2_tt_lstm() -> VideoConfig:
    """TT_RNN's TT-LSTM on Hollywood2 (several labels a clip), at 6 frames a clip."""
    config = tt_lstm("hollywood2", (10, 18, 13, 30), epochs=501, lr=1e-3)
    return replace(config, batch_size=32, protocol="split", held_out=None)


def hmdb51_tt_lstm() -> VideoConfig:
    """TT_RNN's TT-LSTM on HMDB51, at 6 frames a clip."""
    return tt_lstm("hmdb51", (4, 20, 20, 36), epochs=401, lr=1e-4)


def fashion_resnet20() -> ImageConfig:
    """ResNet-20 on the 3,000 images of clothes that ship with the project: minutes on a laptop."""
    return ImageConfig(
        data=Path("data/fashion.h5"),
        epochs=14,
        batch_size=32,
        schedule="one-cycle",
        lr=0.1,
        weight_decay=5e-4,
        padding=2,
    )


def fashion_vgg16() -> ImageConfig:
    """VGG-16 with BatchNorm on the same images."""
    return replace(fashion_resnet20(), network="vgg16", lr=0.03)


def cifar10_resnet20() -> ImageConfig:
    """He et al. 2016, section 4.2, with ResNet-20: 64,000 steps of 128 images, SGD 0.1, x 0.1 at 32,000 and 48,000."""
    return ImageConfig(
        data=CIFAR10,
        epochs=164,  # of 390 steps
        schedule="step",
        lr_factor=0.1,
        lr_drops=(82, 123),
        train_on_validation=True,
    )


def cifar10_resnet32() -> ImageConfig:
    """He et al. 2016 with ResNet-32."""
    return replace(cifar10_resnet20(), network="resnet32")


def cifar10_resnet56() -> ImageConfig:
    """He et al. 2016 with ResNet-56."""
    return replace(cifar10_resnet20(), network="resnet56")


def cifar10_vgg16() -> ImageConfig:
    """Lin et al. 2021 (DCFF) with VGG-16: batch 256, SGD 0.1, x 0.1 at 150 and 225 of 300 epochs, weight decay 5e-4."""
    return replace(
        cifar10_resnet20(),
        network="vgg16",
        epochs=300,
        batch_size=256,
        lr_drops=(150, 225),
        weight_decay=5e-4,
    )


def fdht(*modes: int) -> FormatSpec:
    """FDHT's one matrix for [x; h] of rank 5 and width 256. The first two modes multiply to the rows of x seen as a matrix,
    and those that h needs beside them; the last two to its columns."""
    return FormatSpec("ht", modes, (4, 4, 4, 4), (5,))


def tt_lstm(name: str, modes: tuple[int, ...], epochs: int, lr: float) -> VideoConfig:
    """The protocol of Yang, Krompass and Tresp 2017 as its code has it, at a constant rate; a random fold is held out."""
    return VideoConfig(
        data=Path(f"data/local/{name}.h5"),
        frames=6,
        ih=FormatSpec("tt", modes, (4, 4, 4, 4), (4,)),
        epochs=epochs,
        lr=lr,
        lr_end=lr,
        schedule="cosine",
        dropout=0.25,
        recurrent_dropout=0.25,
        protocol="fold",
        held_out=0,
    )


RECIPES: dict[str, Callable[[], Config]] = {
    "furniture": furniture,
    "furniture-pointnet": furniture_pointnet,
    "furniture-pointnet2": furniture_pointnet2,
    "labeled-meshes": labeled_meshes,
    "labeled-meshes-pointnet": labeled_meshes_pointnet,
    "ldraw": ldraw,
    "ldraw-pointnet": ldraw_pointnet,
    "modelnet40-dgcnn": modelnet40_dgcnn,
    "modelnet40-pointnet": modelnet40_pointnet,
    "components": components,
    "components-pointnet": components_pointnet,
    "components-pointnet2": components_pointnet2,
    "shapenet-part-pointnet": shapenet_part_pointnet,
    "shapenet-part-pointnet2": shapenet_part_pointnet2,
    "shapenet-part-dgcnn": shapenet_part_dgcnn,
    "rooms": rooms,
    "rooms-pointnet": rooms_pointnet,
    "rooms-pointnet2": rooms_pointnet2,
    "s3dis-pointnet": s3dis_pointnet,
    "s3dis-pointnet2": s3dis_pointnet2,
    "s3dis-dgcnn": s3dis_dgcnn,
    "fdht-lstm-video": fdht_lstm_video,
    "action-video": action_video,
    "ucf11-tt-lstm": ucf11_tt_lstm,
    "ucf11-fdht-lstm": ucf11_fdht_lstm,
    "youtube-celebrities-tt-lstm": youtube_celebrities_tt_lstm,
    "hollywood2-tt-lstm": hollywood2_tt_lstm,
    "hmdb51-tt-lstm": hmdb51_tt_lstm,
    "fashion-resnet20": fashion_resnet20,
    "fashion-vgg16": fashion_vgg16,
    "cifar10-resnet20": cifar10_resnet20,
    "cifar10-resnet32": cifar10_resnet32,
    "cifar10-resnet56": cifar10_resnet56,
    "cifar10-vgg16": cifar10_vgg16,
}


def recipe(name: str) -> Config:
    """The config of a recipe, with its name in it."""
    config = RECIPES[name]()
    config.recipe = name
    return config
