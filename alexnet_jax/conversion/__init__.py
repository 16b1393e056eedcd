"""Read and write model files of other programs, and safetensors files of this one."""
