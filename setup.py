"""Maps folders to packages; everything else stands in pyproject.toml."""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

KERNELS = ["thothy_kernels", *(f"thothy_kernels.{name}" for name in find_packages("kernels"))]
DATA = {"thothy_batch._jobs": "jobs", "thothy_batch._sample_data": "sample_data"}


class BuildPy(build_py):
    """Leaves out the scripts that made the embedded model and the samples: no run needs them."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        return [] if package in DATA else super().find_package_modules(package, package_dir)


setup(
    cmdclass={"build_py": BuildPy},
    packages=[*find_packages(include=["thothy_batch", "thothy_batch.*"]), *KERNELS, *DATA],
    # The folder `kernels/` is imported as `thothy_kernels`: a top-level package named `kernels`
    # breaks `import transformers` when Hugging Face's package of that name is near.
    package_dir={"thothy_kernels": "kernels", **DATA},
    package_data={
        "thothy_batch": ["py.typed"],
        "thothy_batch.report": ["page.html.j2", "page.css"],
        "thothy_batch._jobs": ["*.yaml"],
        "thothy_batch._sample_data": ["*.yaml", "*.parquet", "model/*"],
    },
    include_package_data=False,
)
