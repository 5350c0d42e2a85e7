# Programs that pip installs for a user live here; the directory need not exist yet.
case ":$PATH:" in
*":$HOME/.local/bin:"*) ;;
*) PATH="$HOME/.local/bin:$PATH" ;;
esac
export PATH LANG="${LANG:-C.UTF-8}"
