# The bash kernel: runs texts in this very shell, so that variables, functions and the directory stay.
# Descriptor 3: texts that end in a zero byte come in threes (assignments, names, code); the exit status goes back.
trap 'return 130' INT 2>/dev/null
while IFS= read -r -d '' -u 3 ATOLL_SET && IFS= read -r -d '' -u 3 ATOLL_NAMES && IFS= read -r -d '' -u 3 ATOLL_CODE; do
    declare -A ATOLL_BEFORE=()
    for ATOLL_NAME in $ATOLL_NAMES; do
        [ -z "${!ATOLL_NAME+set}" ] || ATOLL_BEFORE[$ATOLL_NAME]=${!ATOLL_NAME}
    done
    [ -z "$ATOLL_SET" ] || eval "export $ATOLL_SET"
    # Neither the code nor what it starts gets the socket.
    # shellcheck disable=SC1090
    source <(printf '%s\n' "$ATOLL_CODE") 3<&-
    ATOLL_STATUS=$?
    for ATOLL_NAME in $ATOLL_NAMES; do
        if [ -n "${ATOLL_BEFORE[$ATOLL_NAME]+set}" ]; then
            export "$ATOLL_NAME=${ATOLL_BEFORE[$ATOLL_NAME]}"
        else
            unset "$ATOLL_NAME"
        fi
    done
    printf '%s\0' "$ATOLL_STATUS" >&3
done
