"""What a command is told by its person, as values: settings, described, and arguments by name for a task."""

from console.flags.arguments import (
    ARGUMENT_NAME,
    MAX_ARGUMENT,
    MAX_ARGUMENTS,
    Arguments,
    ArgumentsAsText,
    PlanArgumentsAsText,
    gathered,
)
from console.flags.closest import meant
from console.flags.described import ENV_PREFIX, GROUP_OF, OWN, Setting, described, flag_of, is_word
from console.flags.help_page import help_page
from console.flags.named import parse_named, text_of_named
from console.flags.names import Names

__all__ = [
    "ARGUMENT_NAME",
    "ENV_PREFIX",
    "GROUP_OF",
    "MAX_ARGUMENT",
    "MAX_ARGUMENTS",
    "OWN",
    "Arguments",
    "ArgumentsAsText",
    "Names",
    "PlanArgumentsAsText",
    "Setting",
    "described",
    "flag_of",
    "gathered",
    "help_page",
    "is_word",
    "meant",
    "parse_named",
    "text_of_named",
]
