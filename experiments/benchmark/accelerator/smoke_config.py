"""The config of the runs of `smoke_checks`: the sample's images, a model of a few seconds."""

from alexnet_jax.config import Config
from alexnet_jax.models.ops import LRN, Conv, Dense, Dropout, MaxPool, ReLU
from alexnet_jax.models.sequential_config import SequentialConfig
from configs import alexnet


def get_config() -> Config:
    """Return the config of a model of two columns with every kind of layer of the paper's."""
    config = alexnet.get_config("sample")
    config.batch_size = 32
    config.max_steps = 200
    config.checkpoint_every = 10
    config.log_every = 10
    config.learning_rate = 0.01
    config.model = SequentialConfig(
        channels=1,
        num_columns=2,
        init="scaled",
        ops=dict(
            conv1=Conv(16, kernel=5, stride=2, padding=(2, 2)),
            relu1=ReLU(),
            norm1=LRN(alpha=0.4),
            pool1=MaxPool(),
            conv2=Conv(16, kernel=3, padding=(1, 1), groups=2),
            relu2=ReLU(),
            fc6=Dense(32),
            relu6=ReLU(),
            drop6=Dropout(),
            fc8=Dense(0),
        ),
    )
    return config
