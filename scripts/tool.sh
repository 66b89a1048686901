#!/usr/bin/env bash
# Prints the path of a development tool in its pinned version, which is built
# first when it isn't there. Tools live outside the repository, in
# ${XDG_CACHE_HOME:-~/.cache}/exhibit-tools, and outside go.mod: what the
# project is built from stays readable.
set -euo pipefail

case "${1:-}" in
golangci-lint) module=github.com/golangci/golangci-lint/v2 package=$module/cmd/golangci-lint version=v2.15.0 ;;
govulncheck) module=golang.org/x/vuln package=$module/cmd/govulncheck version=v1.9.0 ;;
*)
	echo "usage: scripts/tool.sh golangci-lint|govulncheck" >&2
	exit 2
	;;
esac

dir=${EXHIBIT_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/exhibit-tools}
tool=$dir/$1

# A tool built by another Go can't read this one's packages, so both count.
have=$(go version -m "$tool" 2>/dev/null || true)
if ! grep -Eq "mod[[:space:]]+$module[[:space:]]+$version([[:space:]]|\$)" <<<"$have" ||
	! grep -qF "$(go env GOVERSION)" <<<"$have"; then
	echo "tool: building $1 $version" >&2
	mkdir -p "$dir"
	GOBIN=$dir GOFLAGS= go install "$package@$version" >&2
fi
printf '%s\n' "$tool"
