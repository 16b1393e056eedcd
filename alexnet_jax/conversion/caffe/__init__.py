"""Read Caffe's files."""
