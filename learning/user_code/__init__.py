"""What a task file may do to us: raise anything, and import modules named like ours."""

from learning.user_code.blame import blame, blamed
from learning.user_code.imports import make_room, package_of
from learning.user_code.packages import OUR_PACKAGES

__all__ = ["OUR_PACKAGES", "blame", "blamed", "make_room", "package_of"]
