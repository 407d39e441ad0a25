# Starts a command as a member of the private federation, if there is one (see members.sh); else as it is.
set -eu
if [ -e /members/private ]; then
    export FEDMQ_ROSTER=/members/roster.yaml FEDMQ_ROSTER_KEY=/members/keys/admin.pub FEDMQ_MIN_SITES="$MIN_SITES"
    # A run of its own: what was begun without masks is not gone on with.
    export FEDMQ_RUN="$FEDMQ_RUN-private"
    case "$1" in
    fl-aggregator)
        export FEDMQ_KEY=/state/keys/aggregator.key FEDMQ_STATE="/state/$FEDMQ_RUN"
        export FEDMQ_PRIVACY=secure FEDMQ_KEEPER=keeper FEDMQ_MIN_UPDATES="$FEDMQ_MIN_SITES"
        ;;
    fl-worker)
        # Each container is one of the eight sites, and the same one until the federation is started again.
        start=$(cat /members/private)
        if [ "$(cut -d ' ' -f 1 /state/site 2>/dev/null || true)" != "$start" ]; then
            for number in 1 2 3 4 5 6 7 8; do
                if mkdir "/members/taken/site-$number" 2>/dev/null; then
                    echo "$start site-$number" > /state/site
                    break
                fi
            done
        fi
        FEDMQ_NAME=$(cut -d ' ' -f 2 /state/site)
        export FEDMQ_NAME FEDMQ_KEY="/members/keys/$FEDMQ_NAME.key" FEDMQ_REQUIRE=secure
        ;;
    esac
fi
exec "$@"
