"""What a task file may do to us: raise anything, give what is no model, and import modules named like ours."""

from learning.user_code.blame import blame, blamed
from learning.user_code.imports import make_room, package_of
from learning.user_code.model import made_by
from learning.user_code.packages import OUR_PACKAGES

__all__ = ["OUR_PACKAGES", "blame", "blamed", "made_by", "make_room", "package_of"]
