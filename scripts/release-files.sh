#!/bin/sh
# Makes completions and manual pages into the directory $1, dated by the second $2, so
# that the same commit gives the same bytes.
set -eu
dir=$1 SOURCE_DATE_EPOCH=$2
export SOURCE_DATE_EPOCH
rm -rf "$dir"
mkdir -p "$dir/completions"
GOOS= GOARCH= go build -trimpath -o "$dir/rstream" ./cmd/rstream
"$dir/rstream" completion bash >"$dir/completions/rstream.bash"
"$dir/rstream" completion zsh >"$dir/completions/_rstream"
"$dir/rstream" completion fish >"$dir/completions/rstream.fish"
"$dir/rstream" completion powershell >"$dir/completions/rstream.ps1"
"$dir/rstream" man --dir "$dir/man"
gzip -9 -n "$dir"/man/*.1
rm "$dir/rstream"
find "$dir" -exec touch -d "@$SOURCE_DATE_EPOCH" {} +
