# Read by interactive bash shells.
case $- in
*i*) ;;
*) return ;;
esac

HISTCONTROL=ignoreboth
HISTSIZE=10000
shopt -s histappend checkwinsize

# user@sandbox:directory, and the exit code of the last command when it failed.
__atoll_status() { local code=$?; [ "$code" -eq 0 ] || printf '\001\e[31m\002%s\001\e[0m\002 ' "$code"; }
PS1='$(__atoll_status)\[\e[36m\]\u@\h\[\e[0m\]:\[\e[1m\]\w\[\e[0m\]\$ '

alias ls='ls --color=auto'
alias ll='ls -lh'
alias la='ls -A'
alias grep='grep --color=auto'
