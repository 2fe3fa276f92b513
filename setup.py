"""Which folders become which packages; everything else stands in pyproject.toml."""

from setuptools import find_packages, setup

KERNELS = ["thothy_kernels", *(f"thothy_kernels.{name}" for name in find_packages("kernels"))]
DATA = {"thothy_batch._jobs": "jobs", "thothy_batch._sample_data": "sample_data"}

setup(
    packages=[*find_packages(include=["thothy_batch", "thothy_batch.*"]), *KERNELS, *DATA],
    # The folder `kernels/` is imported as `thothy_kernels`: a top-level package named `kernels`
    # breaks `import transformers` when Hugging Face's package of that name is near.
    package_dir={"thothy_kernels": "kernels", **DATA},
    package_data={
        "thothy_batch.report": ["page.html.j2", "page.css"],
        "thothy_batch._jobs": ["*.yaml"],
        "thothy_batch._sample_data": ["*.yaml", "*.parquet", "model/*"],
    },
    include_package_data=False,
)
