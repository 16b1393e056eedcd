"""The part of the config about images: the data set, its preparation, augmentation and input."""

from dataclasses import dataclass

from alexnet_jax.errors import InputError
from alexnet_jax.fields import Section, check_value

RESIZES = ("crop", "squash", "shorter_side")
RESIDENT = ("auto", "on", "off")
ENCODINGS = ("auto", "raw")
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")
LIGHTING = ("paper", "source2012", "none")
MEANS = ("image", "center", "channel", "given", "none")
CHANNEL_ORDERS = ("rgb", "bgr")
CROP_POSITIONS = ("all", "five", "center")


@dataclass
class DataConfig(Section):
    """The data set, its preparation and the augmentation.

    Attributes:
        name: "sample", "folder", "idx", "cifar10_binary", or the name of a set in TensorFlow
            Datasets.
        dir: folder of the source: the data_dir of TensorFlow Datasets, a folder of class folders,
            or a folder of IDX files or of CIFAR-10's binary files.
        pack_dir: folder of the prepared images; "" selects one in the user's cache.
        image_size: length in pixels to which the shorter side of an image is scaled.
        enlarge: also scale up the images of a source whose images all have one size below
            image_size, such as IDX files; False leaves them as they are.
        resize: "crop" cuts the central square out of the scaled image (section 2); "shorter_side"
            keeps all of it, so that crops come from the whole image (section 3.1 of Simonyan and
            Zisserman 2014); "squash" scales both sides to image_size, as Caffe's published weights
            need.
        encoding: how prepared images are stored: "auto" as raw pixels if their shorter side has at
            most 64 pixels, and as JPEG otherwise; "raw" as raw pixels at any size, which takes more
            space on disk and less time to read.
        jpeg_quality, jpeg_subsampling: encoding of prepared images that are stored as JPEG.
        max_bad_share: share of unreadable images in a split above which preparation stops.
        validation_share: share of the training images that become the validation split, if the
            source has none.
        test_share: share of the training images that become the test split, if the source has
            neither a validation nor a test split.
        split_seed: seed that selects the images of those splits.
        shuffle: draw a new order of the training images for every epoch; False takes them in the
            order of the source.
        part_images: number of images in a part of an epoch. A step takes images of one part, so
            that the last batch of a part may be smaller; cuda-convnet's parts are the 10,000 images
            of a file. 0 for batches that are always full and continue in the next epoch.
        stages: pairs (epoch, images). From that epoch on, counted from 1, epochs consist of the
            first so many images of the training split; () for all images. Needs parts, and no
            shuffling.
        crop: side of the model's input in pixels (section 4.1).
        crop_positions: positions of training crops: "all" draws any (section 4.1); "five" draws
            one of the four corners and the center (section 3 of Zeiler and Fergus 2013); "center"
            takes the center.
        scale_jitter: smallest and largest length in pixels to which the shorter side of a training
            image is scaled, drawn anew for each image (section 3.1 of Simonyan and Zisserman 2014);
            () keeps image_size. Evaluation uses their mean.
        crop_area: smallest and largest share of the image's area that a training crop has before it
            is scaled to `crop`, drawn uniformly for each image (section 6 of Szegedy et al. 2014);
            () for crops of fixed size.
        crop_aspect: smallest and largest ratio of width to height of such crops; its logarithm is
            drawn uniformly.
        padding: pixels of zeros around a training image, after the mean is subtracted, within which
            its crop is drawn (section 4.2 of He et al. 2015).
        flip: mirror training crops at random.
        crop_chunk: number of consecutive training images that share a crop position and a flip.
        lighting: "paper" adds the color noise of section 4.1; "source2012" scales it by standard
            deviations in place of eigenvalues; "none" adds none.
        lighting_std: standard deviation of the lighting coefficients α (section 4.1).
        lighting_divisor: divisor of the pixels while lighting is on.
        lighting_end: epoch, counted from 1, at whose start lighting is turned off; 0 for never.
        mean: mean to subtract: "image" subtracts the mean image at the position of the crop
            (section 2), "center" its central crop, "channel" the mean of each channel, "given"
            the numbers in `given_mean`, "none" nothing.
        given_mean: one number per channel (R, G, B), used if mean is "given".
        scale: factor by which inputs are multiplied after the mean is subtracted.
        std: divisor of the inputs, one number or one per channel (R, G, B).
        channel_order: order of the model's input channels, "rgb", or "bgr" for Caffe's weights.
        resident: "on" keeps the images on every device, where steps cut their crops; "off" cuts
            crops on the host; "auto" is "on" for accelerators, if crops are not scaled and the
            pack has the pixels of squares that take at most half of the memory.
    """

    name: str = "imagenet2012"
    dir: str = ""
    pack_dir: str = ""
    image_size: int = 256
    enlarge: bool = False
    resize: str = "crop"
    encoding: str = "auto"
    jpeg_quality: int = 95
    jpeg_subsampling: str = "4:4:4"
    max_bad_share: float = 0.001
    validation_share: float = 0.1
    test_share: float = 0.1
    split_seed: int = 0
    shuffle: bool = True
    part_images: int = 0
    stages: tuple[tuple[int, int], ...] = ()
    crop: int = 224
    crop_positions: str = "all"
    scale_jitter: tuple[int, ...] = ()
    crop_area: tuple[float, ...] = ()
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    padding: int = 0
    flip: bool = True
    crop_chunk: int = 1
    lighting: str = "paper"
    lighting_std: float = 0.1
    lighting_divisor: float = 1.0
    lighting_end: int = 0
    mean: str = "image"
    given_mean: tuple[float, ...] = ()
    scale: float = 1.0
    std: tuple[float, ...] = (1.0,)
    channel_order: str = "rgb"
    resident: str = "auto"

    def check(self, channels: int) -> None:
        """Check all fields.

        Args:
            channels: number of channels of the model's input.

        Raises:
            InputError: a value is out of range, or does not fit that of another field.
        """
        _check_numbers(self)
        _check_words(self)
        _check_normalization(self, channels)
        _check_crops(self)
        _check_stages(self)


def _check_numbers(data: DataConfig) -> None:
    """Check that every number is in its range."""
    for name, value, expected, is_valid in (
        ("data.image_size", data.image_size, "1 or more", data.image_size >= 1),
        ("data.crop", data.crop, "1 or more", data.crop >= 1),
        ("data.jpeg_quality", data.jpeg_quality, "1 to 100", 1 <= data.jpeg_quality <= 100),
        ("data.max_bad_share", data.max_bad_share, "0 to 1", 0 <= data.max_bad_share <= 1),
        (
            "data.validation_share",
            data.validation_share,
            "in [0, 1)",
            _is_share(data.validation_share),
        ),
        ("data.test_share", data.test_share, "in [0, 1)", _is_share(data.test_share)),
        ("data.padding", data.padding, "from 0 to below data.crop", 0 <= data.padding < data.crop),
        ("data.scale", data.scale, "more than 0", data.scale > 0),
        ("data.lighting_std", data.lighting_std, "0 or more", data.lighting_std >= 0),
        ("data.part_images", data.part_images, "0 or more", data.part_images >= 0),
        ("data.crop_chunk", data.crop_chunk, "1 or more", data.crop_chunk >= 1),
        ("data.lighting_divisor", data.lighting_divisor, "1 or more", data.lighting_divisor >= 1),
        ("data.lighting_end", data.lighting_end, "0 or more", data.lighting_end >= 0),
    ):
        check_value(name, value, expected, is_valid)


def _is_share(value: float) -> bool:
    """Return whether a number is at least 0 and below 1."""
    return 0 <= value < 1


def _check_words(data: DataConfig) -> None:
    """Check fields whose value is one of a list of words."""
    for name, value, words in (
        ("data.resize", data.resize, RESIZES),
        ("data.encoding", data.encoding, ENCODINGS),
        ("data.jpeg_subsampling", data.jpeg_subsampling, SUBSAMPLINGS),
        ("data.crop_positions", data.crop_positions, CROP_POSITIONS),
        ("data.lighting", data.lighting, LIGHTING),
        ("data.mean", data.mean, MEANS),
        ("data.channel_order", data.channel_order, CHANNEL_ORDERS),
        ("data.resident", data.resident, RESIDENT),
    ):
        check_value(name, value, f"one of {', '.join(words)}", value in words)


def _check_normalization(data: DataConfig, channels: int) -> None:
    """Check that the mean and the standard deviation fit the model's channels."""
    if len(data.given_mean) != (channels if data.mean == "given" else 0):
        raise InputError(
            f"data.given_mean is {data.given_mean} and data.mean={data.mean}; "
            f'expected {channels} numbers with "given", and none otherwise'
        )
    if len(data.std) not in (1, channels) or min(data.std) <= 0:
        raise InputError(
            f"data.std is {data.std}; expected one number above 0, or one for each of the "
            f"{channels} channels"
        )


def _check_crops(data: DataConfig) -> None:
    """Check what determines the crops, and that the mean fits them."""
    jitter = data.scale_jitter
    if jitter and not (len(jitter) == 2 and data.crop <= jitter[0] <= jitter[1]):
        raise InputError(
            f"data.scale_jitter is {jitter}; expected (), or the smallest and the largest length, "
            f"which are at least data.crop={data.crop}"
        )
    area, aspect = data.crop_area, data.crop_aspect
    if area and not (len(area) == 2 and 0 < area[0] <= area[1] <= 1):
        raise InputError(
            f"data.crop_area is {area}; expected (), or the smallest and the largest share, which "
            "are more than 0 and at most 1"
        )
    if not 0 < aspect[0] <= aspect[1]:
        raise InputError(
            f"data.crop_aspect is {aspect}; expected the smallest and the largest ratio, above 0"
        )
    for name in ("scale_jitter", "crop_area"):
        if getattr(data, name) and data.mean in ("image", "center"):
            raise InputError(
                f"data.{name} scales images, and data.mean={data.mean} is a mean for each pixel; "
                "expected data.mean=channel, given or none"
            )
        if getattr(data, name) and data.resident == "on":
            raise InputError(
                f"data.{name} scales images, for which the host cuts the crops, and "
                "data.resident=on; expected data.resident=auto"
            )
    if sum(bool(value) for value in (jitter, area, data.padding)) > 1:
        raise InputError(
            f"data.scale_jitter={jitter}, data.crop_area={area} and data.padding={data.padding} "
            "all determine the crop; expected one of them"
        )
    if data.resize == "shorter_side" and data.mean in ("image", "center"):
        raise InputError(
            f"data.resize=shorter_side keeps images of different shapes, and data.mean={data.mean} "
            "is a mean for each pixel; expected data.mean=channel, given or none, or "
            "data.resize=crop"
        )
    if data.resize == "shorter_side" and data.padding:
        raise InputError(
            f"data.padding={data.padding} surrounds square images; expected data.padding=0 with "
            "data.resize=shorter_side, or data.resize=crop"
        )


def _check_stages(data: DataConfig) -> None:
    """Check the stages of the training set."""
    epochs = [epoch for epoch, _ in data.stages]
    if epochs and (epochs[0] != 1 or epochs != sorted({*epochs})):
        raise InputError(f"data.stages={data.stages}; expected ascending epochs, the first one 1")
    for epoch, images in data.stages:
        check_value("data.stages", (epoch, images), "1 image or more", images >= 1)
    if data.stages and (data.shuffle or not data.part_images):
        raise InputError(
            f"data.stages={data.stages} needs epochs in a fixed order and in parts; expected "
            "data.shuffle=False and data.part_images of 1 or more"
        )
