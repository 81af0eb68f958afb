#!/bin/sh
# Brings a published directory to this machine and checks all of it, before anything serves it.
#
#   fetch.sh URI FOLDER
#   fetch.sh s3://models/vllm/facebook/opt-125m/v1 /models/opt-125m
set -eu
uri=${1%/} folder=$2

# The first process of a container passes no signal on by itself: tell tz-cli, and wait until it has cleaned up.
work=
trap '[ -z "$work" ] || kill -TERM "$work" || :; wait; exit 143' TERM INT
tz() {
    tz-cli "$@" &
    work=$!
    wait "$work"
}

mkdir -p "$folder"
tz copy "$uri/manifest.toml" "$folder/manifest.toml"
files=$(sed -n '/^\[\[files]]$/{n;s/^path = "\(.*\)"$/\1/p;}' "$folder/manifest.toml")
while IFS= read -r file; do
    # The manifest comes from the store: it must not lead out of the folder.
    case "/$file/" in //* | */../*)
        echo "refused: $file" >&2
        exit 4
        ;;
    esac
    mkdir -p "$(dirname "$folder/$file")"
    tz copy "$uri/$file" "$folder/$file"
done <<END
$files
END
tz verify "$folder"
