"""Print a script that completes commands, options, recipes, runs and settings in bash and zsh.

The script has all words but the runs, so a completion starts no Python.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from vitas_ds.config import Config
from vitas_ds.recipe import RECIPES
from vitas_ds.run.compatibility import leaves

Arguments = Sequence[tuple[str, dict[str, Any]]]
Commands = Mapping[str, Arguments]
SCRIPT = Template("""\
# Completion of vitas. bash: source <(vitas completion bash); zsh: source <(vitas completion zsh)
_vitas() {
    [[ -z $${ZSH_VERSION-} ]] || emulate -L ksh
    local word=$${COMP_WORDS[COMP_CWORD]} before=$${COMP_WORDS[COMP_CWORD - 1]} command='' words='' i
    COMPREPLY=()
    [[ $$word != *=* && $$before != "=" ]] || return 0 # a value: the shell completes files
    for ((i = 1; i < COMP_CWORD; i++)); do
        [[ -n $$command || $${COMP_WORDS[i]} == -* ]] || command=$${COMP_WORDS[i]}
    done
    case $$command in
    "") words="$commands" ;;
$cases
    esac
    if [[ $$word == -* ]]; then
        words="$$words --help"
    elif [[ $$command == @($with_run) ]]; then
        for i in runs/*/config.yaml; do
            [[ ! -f $$i || $$i == *[!A-Za-z0-9._/-]* ]] || words="$$words $${i%/config.yaml}" # else it may be a command
        done
    fi
    if [[ $$word != -* && $$command == @($with_recipe) ]]; then
        words="$$words $recipes"
        if [[ $$word == *.* ]]; then
            words="$$words $settings"
            compopt -o nospace 2>/dev/null || true
        else
            words="$$words $sections"
        fi
    fi
    for i in $$words; do
        [[ $$i != "$$word"* ]] || COMPREPLY+=("$$i")
    done
    [[ $${#COMPREPLY[@]} != 1 || $${COMPREPLY[0]} != *. ]] || compopt -o nospace 2>/dev/null || true
}
$setup""")
BASH = "complete -o default -F _vitas vitas\n"
ZSH = """\
_vitas_zsh() {
    local -a COMP_WORDS COMPREPLY
    local COMP_CWORD=$((CURRENT - 1))
    COMP_WORDS=("${words[@]}")
    _vitas
    if (($#COMPREPLY)); then
        compadd -S '' -- ${(M)COMPREPLY:#*[=.]}
        compadd -- ${COMPREPLY:#*[=.]}
    else
        compset -P '*='
        _files
    fi
}
(($+functions[compdef])) || { autoload -Uz compinit && compinit -i }
compdef _vitas_zsh vitas
"""


def script(shell: str, commands: Commands) -> str:
    """Return the script.

    Args:
        shell: ``bash`` or ``zsh``.
        commands: The arguments of each command: name, and keyword arguments of ``add_argument``.
    """
    settings = [name for name, _ in leaves(Config().model_dump(mode="json"))]
    words = {name: {word for word, _ in arguments} for name, arguments in commands.items()}
    takes_recipe = [name for name, found in words.items() if "recipe" in found]
    takes_run = [name for name, found in words.items() if found & {"recipe", "run"}]
    return SCRIPT.substitute(
        commands=" ".join(commands),
        cases="\n".join(_case(name, arguments) for name, arguments in commands.items()),
        with_recipe="|".join(takes_recipe),
        with_run="|".join(takes_run),
        recipes=" ".join(sorted(path.stem for path in RECIPES.glob("*.yaml"))),
        settings=" ".join(f"{name}=" for name in settings),
        sections=" ".join(dict.fromkeys(f"{name.partition('.')[0]}." for name in settings)),
        setup=ZSH if shell == "zsh" else BASH,
    )


def _case(name: str, arguments: Arguments) -> str:
    """Return the options of a command. After one with a value, the shell completes files."""
    options = {option: settings for option, settings in arguments if option.startswith("-")}
    valued = [option for option, settings in options.items() if settings.get("action") != "store_true"]
    lines = [f"        [[ $before != @({'|'.join(valued)}) ]] || return 0"] if valued else []
    lines += [f'        [[ $word != -* ]] || words="{" ".join(options)}"'] if options else []
    return "\n".join([f"    {name})", *lines, "        ;;"])
