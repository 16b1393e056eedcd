"""Place the images of packs on the devices, in all processes alike."""

from jax import Array
from jax.sharding import Mesh

from alexnet_jax import distributed, sharding
from alexnet_jax.data import resident
from alexnet_jax.data.pack import Pack
from alexnet_jax.data_config import DataConfig


def place_images(
    data: DataConfig, pack: Pack, splits: list[str], mesh: Mesh
) -> tuple[dict[str, Array], str]:
    """Place the images of splits on the devices if data.resident and the pack call for it.

    Args:
        data: config.data.
        pack: the prepared images.
        splits: names of the splits.
        mesh: the mesh of devices.

    Returns:
        The images by name of their split, from `data.resident.load_pixels`, {} if the host is to
        cut the crops; and a line for the log that states which of them does.

    Raises:
        InputError: see `data.resident`.
    """
    reason = resident.explain_host_images(data, pack, splits, mesh.local_devices[0])
    # The devices of other processes may have more memory.
    if not distributed.broadcast_bool(reason is None):
        return {}, f"The host cuts the crops of images, since {reason}."
    replicated = sharding.replicated(mesh)
    pixels = {name: resident.load_pixels(pack, name, replicated) for name in splits}
    size = sum(array.nbytes for array in pixels.values())
    return pixels, f"The images are on every device, which cut the crops: {size / 1e6:.1f} MB."
