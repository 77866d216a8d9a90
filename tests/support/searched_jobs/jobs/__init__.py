"""A stand-in for `jobs` whose work is a formula; everything else of the package is the real one."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
