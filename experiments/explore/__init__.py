"""A page that shows what the channels of a trained model respond to."""
