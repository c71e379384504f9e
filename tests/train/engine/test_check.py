"""What is said of data that are too few, or frames of another size, before anything is written."""

import pytest

from dropfold.models.formats import FormatSpec
from dropfold.train.engine.check import note_grid
from dropfold.train.engine.run import Run
from tests.train.conftest import small, small_video


def said_of(config):
    with pytest.raises(ValueError, match=r"\.") as raised:
        Run(config)
    assert not config.out.exists()
    return str(raised.value)


def test_fewer_samples_than_a_batch_name_the_option(folder, video_folder, tmp_path):
    out = tmp_path / "run"
    said = said_of(small(folder, out=out, batch_size=64))
    assert said.endswith(
        "has 30 training shapes, less than one batch of 64; give --batch-size 30 or less, or more shapes."
    )
    said = said_of(small_video(video_folder, out=out, batch_size=32))
    assert said.endswith(
        "has 24 training clips, less than one batch of 32; give --batch-size 24 or less, or more clips."
    )


def test_frames_of_another_size_than_the_modes(video_folder, tmp_path):
    """Of an input format the modes must multiply to the frame's numbers, 6 x 8 x 1."""
    spec = FormatSpec("tt", (4, 4, 4), (2, 2, 2), (2,))
    said = said_of(small_video(video_folder, out=tmp_path / "run", mega=FormatSpec(), ih=spec))
    assert (
        "clips.h5 are 6 x 8 x 1 = 48 numbers, and --ih.in-modes 4 4 4 multiply to 64. Give factors of 48"
        in said
    )


@pytest.mark.parametrize(
    ("modes", "size", "said"),
    [
        ((4, 2, 4, 2), (6, 8), None),  # 8 rows of 8: six of the frame, one of h, one idle
        ((7, 1, 4, 2), (6, 8), None),
        ((4, 3, 4, 2), (6, 8), "fill 6 of its rows and the hidden state 1, and 5 learn nothing. "),
        ((6, 2, 3, 2), (6, 8), "a row of the grid is no row of a frame (8 numbers)"),
        ((7, 8, 4, 2), (6, 8), "first ones to at least 7 fit"),
    ],
)
def test_a_grid_for_other_frames_is_said(modes, size, said, video_folder, tmp_path, clips, capsys):
    config = small_video(
        video_folder, mega=FormatSpec("ht", modes, (2, 2, 2, 1), (2,)), out=tmp_path / "run", epochs=1
    )
    run = Run(config)
    note = note_grid(run.network, config, run.data.signature.shape)
    assert (note is None) == (said is None)
    assert said is None or said in note
    if modes == (4, 3, 4, 2):
        run.train()
        assert note in capsys.readouterr().err


def test_the_recipes_grids_fit_their_frames(tmp_path, clips):
    """The shipped recipes' modes are made for 120 x 160 x 3 and for 60 x 80 gray frames."""
    from dropfold.train.config.configs import Signature
    from dropfold.train.config.recipes import recipe
    from dropfold.train.tasks import video

    for name, shape in (("fdht-lstm-video", (6, 120, 160, 3)), ("action-video", (16, 60, 80, 1))):
        config = recipe(name)
        network = video.build(config, Signature(["a", "b"], shape))
        assert note_grid(network, config, shape) is None
        smaller = (shape[0], shape[1] // 2, shape[2] // 2, shape[3])
        assert "learn nothing" in note_grid(
            video.build(config, Signature(["a", "b"], smaller)), config, smaller
        )
