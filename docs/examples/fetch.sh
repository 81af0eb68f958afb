#!/bin/sh
# Brings a published directory to this machine and checks all of it, before anything serves it.
#
#   fetch.sh URI FOLDER
#   fetch.sh s3://models/vllm/facebook/opt-125m/v1 /models/opt-125m
set -eu
uri=${1%/} folder=$2

mkdir -p "$folder"
tz-cli copy "$uri/manifest.toml" "$folder/manifest.toml"
sed -n '/^\[\[files]]$/{n;s/^path = "\(.*\)"$/\1/p;}' "$folder/manifest.toml" | while IFS= read -r file; do
    # The manifest comes from the store: it must not lead out of the folder.
    case "/$file/" in //* | */../*)
        echo "refused: $file" >&2
        exit 4
        ;;
    esac
    mkdir -p "$(dirname "$folder/$file")"
    tz-cli copy "$uri/$file" "$folder/$file"
done
tz-cli verify "$folder"
