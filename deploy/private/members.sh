# Before each start with --profile private: makes everybody's keys and the roster, the first time, and says that the
# run is private. In earnest, each key is made where it is used, and the admin's stays offline (docs/identities.md).
set -eu
umask 077
cd /members

make_key() { [ -e "$3/$1.key" ] || fl-keys new "$1" --role "$2" --keys "$3"; }

if [ ! -e roster.yaml ]; then
    make_key admin admin keys
    make_key aggregator aggregator /aggregator/keys
    make_key keeper keeper /keeper/keys
    for number in 1 2 3 4 5 6 7 8; do make_key "site-$number" worker keys; done
    fl-keys roster --federation demo /aggregator/keys/aggregator.pub /keeper/keys/keeper.pub keys/site-*.pub
fi
rm -rf taken
mkdir taken
date +%s%N > private
