"""The scripts that make bash, zsh and fish ask hangarlog for completions.

Each runs hangarlog with `_HANGARLOG_COMPLETE` set. Its answer is a line for each word: the words' kind (see `answers`),
the word, and perhaps a tab and a help text. bash and zsh insert a word as it is, so hangarlog quotes it; fish quotes by
itself. A relative path to a program is never run, as it may lie in a folder that belongs to somebody else.
"""

from __future__ import annotations

_BASH = r"""# Completion of hangarlog for bash 4.1 or newer. Written by `hangarlog completion bash`.
_hangarlog() {
    local program=$1 line
    [[ $program == /* ]] || program=hangarlog
    COMPREPLY=()
    while IFS= read -r line; do
        case ${line:0:1} in
            f) compopt -o default 2>/dev/null ;;
            p) compopt -o nospace 2>/dev/null; COMPREPLY+=("${line:1}") ;;
            w) COMPREPLY+=("${line:1}") ;;
        esac
    done < <(_HANGARLOG_COMPLETE=bash_complete command "$program" "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" \
        2>/dev/null </dev/null)
}
complete -F _hangarlog hangarlog
"""

_ZSH = r"""#compdef hangarlog
# Completion of hangarlog for zsh. Written by `hangarlog completion zsh`.
_hangarlog() {
    local program=${(Q)words[1]} line word
    local -a texts shown parts
    [[ $program == /* ]] || program=hangarlog
    while IFS= read -r line; do
        word=${${line[2,-1]}%%$'\t'*}
        case ${line[1]} in
            f) _files ;;
            p) parts+=("$word") ;;
            w) texts+=("$word"); shown+=("${line[2,-1]/$'\t'/  -- }") ;;
        esac
    done < <(_HANGARLOG_COMPLETE=zsh_complete command "$program" "${(@)words[1,CURRENT-1]}" \
        "$IPREFIX$QIPREFIX$PREFIX" 2>/dev/null </dev/null)
    (( $#texts )) && compadd -U -Q -l -d shown -a -- texts
    (( $#parts )) && compadd -U -Q -S '' -a -- parts
    return 0
}
if [[ ${zsh_eval_context[-1]} == loadautofunc ]]; then
    _hangarlog "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }
    compdef _hangarlog hangarlog
fi
"""

_FISH = r"""# Completion of hangarlog for fish 3.1 or newer. Written by `hangarlog completion fish`.
function __hangarlog_complete
    set -l before (commandline -opc)
    set -l current (commandline -ct)
    set -l program $before[1]
    string match -q '/*' -- $program; or set program hangarlog
    for line in (env _HANGARLOG_COMPLETE=fish_complete $program $before "$current" 2>/dev/null </dev/null)
        switch $line
            case 'f*'
                __fish_complete_path (commandline -ct)
            case 'p*' 'w*'
                string sub -s 2 -- $line
        end
    end
end
complete --command hangarlog --no-files --arguments '(__hangarlog_complete)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
"""Shell -> its script."""
