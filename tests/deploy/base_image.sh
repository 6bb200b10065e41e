#!/usr/bin/env bash
# Builds a base image for deploy/Dockerfile without an image registry: Debian with its own Python,
# from the mirror that apt uses on this machine. The image stays in buildah's storage.
#
#   base_image.sh NAME BUILDAH [OPTION...]
set -euo pipefail
umask 022
name=$1 buildah=("${@:2}")
[ -z "$("${buildah[@]}" images --quiet "$name" 2>/dev/null)" ] || exit 0

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# shellcheck disable=SC2016 # apt replaces this variable
mirror=$(grep -m 1 '/debian/$' <<<"$(apt-get indextargets --format '$(REPO_URI)')")
debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
  trixie "$folder/root" "$mirror" >"$folder/log" || { tail "$folder/log" >&2; exit 1; }
rm -rf "$folder"/root/var/{cache/apt,lib/apt/lists}/* "$folder/root/etc/apt"

container=$("${buildah[@]}" from scratch)
"${buildah[@]}" copy --quiet "$container" "$folder/root" / >/dev/null
"${buildah[@]}" config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  "$container"
"${buildah[@]}" commit --quiet --rm "$container" "$name" >/dev/null
